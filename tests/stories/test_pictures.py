"""The pictures of the documentation: all there, told in words, in two colours, from scripts."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from docs import picture
from docs.drift_chart import LEAST, draw
from docs.film import ARRIVING, DECIDE, LEARN, Stage, decide, learn
from docs.themes import COLOURS, decision_text
from docs.three_products import DEFECTS, tablet
from moleflow_pl import Prediction
from moleflow_pl.inference.drift import CHANNELS, Drift, State
from tests.helpers.commands import ROOT
from tests.helpers.products import draw_product
from tests.helpers.story import Story

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
PICTURES = ROOT / "docs" / "pictures"
LARGEST = 1_000_000  # bytes
NAMES = ["solar_mono", "solar_poly", "tablet"]


def prediction(product: str, score: float) -> Prediction:
    label = "normal" if score <= 9.5 else "anomalous"
    return Prediction(product, score, 1.0, None, torch.zeros(2, 2), (8, 8), label, 9.5)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pictures_of_a_page_exist_and_are_told_in_words(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    shown = re.findall(r"!\[(.*?)\]\(([^)#]+)", text)
    shown += re.findall(r'<img alt="(.*?)" src="([^"#]+)', text)
    assert len(shown) == len(re.findall(r"!\[|<img", text))
    for words, _ in shown:
        assert len(words.split()) >= 3, words
    files = [file for _, file in shown] + re.findall(r'srcset="([^"#]+)', text)
    assert all((page.parent / file).is_file() for file in files), files


def test_drawn_pictures_come_light_and_dark_and_below_a_megabyte() -> None:
    paths = list(PICTURES.iterdir())
    assert len(paths) >= 16
    for path in paths:
        stem, _, theme = path.stem.rpartition("-")
        other = {"light": "dark", "dark": "light"}[theme]
        assert path.with_name(f"{stem}-{other}{path.suffix}").is_file()
        assert path.stat().st_size < LARGEST, path


def test_the_picture_that_moves_lasts_longer_than_it_takes_to_read_and_ends_as_its_still() -> None:
    for theme in COLOURS:
        with Image.open(PICTURES / f"film-{theme}.webp") as film:
            assert film.is_animated
            lasted = 0
            for frame in range(film.n_frames):
                film.seek(frame)
                film.load()
                lasted += film.info["duration"]
            end = np.asarray(film.convert("RGB"), dtype=float)
        with Image.open(PICTURES / f"film-{theme}.png") as still:
            away = np.abs(np.asarray(still.convert("RGB"), dtype=float) - end).mean()
        assert 1000 * (3 * LEARN + len(ARRIVING) * DECIDE) < lasted < 30_000
        assert away < 12  # of 255; both were compressed


def test_the_film_ends_with_all_products_and_decisions_and_no_arrow(tmp_path: Path) -> None:
    for seed, name in enumerate(NAMES):
        draw_product(tmp_path, name, seed, train=3)
    stage, image = Stage("light"), Image.new("RGB", (8, 8))
    learn(stage, NAMES, tmp_path)
    decide(stage, NAMES, [(image, prediction(NAMES[i % 3], 9.0 + i)) for i in range(5)])
    for actor in stage.actors:
        actor.show(stage.times()[-1])
    shown = [text.get_text() for text in stage.axes.texts if text.get_alpha() == 1]
    assert set(NAMES) <= set(shown)
    assert (shown.count("normal"), shown.count("anomalous")) == (1, 4)
    assert all(line.get_alpha() < 1e-6 for line in stage.axes.lines)
    plt.close(stage.figure)


def test_a_decision_s_text_says_on_which_side_of_the_threshold_the_score_is() -> None:
    assert decision_text(prediction("a", 9.6)) == ("9.6 > 9.5\nanomalous", "anomalous")
    assert decision_text(prediction("a", 3.0)) == ("3.0 < 9.5\nnormal", "normal")


def test_the_chart_of_drift_tints_what_was_not_steady() -> None:
    states: list[State] = ["steady", "warning", "drift", "drift"]
    evidence = dict.fromkeys(CHANNELS, -9.0)
    drifts = [Drift("a", state, i, [], evidence) for i, state in enumerate(states)]
    figure = draw([prediction("a", 1.0)] * 4, drifts, "dark")
    above, below = figure.axes
    paths = [patch.get_path().transformed(patch.get_patch_transform()) for patch in above.patches]
    spans = [(path.get_extents().x0, path.get_extents().x1) for path in paths]
    assert spans == [(0.5, 1.5), (1.5, 3.5)]
    assert all(min(line.get_ydata()) >= LEAST for line in below.lines)
    plt.close(figure)


def test_each_defect_changes_the_tablet_and_the_same_seed_draws_the_same_one() -> None:
    whole = np.asarray(tablet(np.random.default_rng(0)))
    assert (whole == np.asarray(tablet(np.random.default_rng(0)))).all()
    for name in DEFECTS:
        damaged = np.asarray(tablet(np.random.default_rng(0), name), dtype=float)
        assert np.abs(damaged - whole).max() > 40, name


def test_the_picture_of_the_products_can_be_drawn(
    story: Story, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["picture", str(story.moved / "last.ckpt"), str(data_root), str(tmp_path / "p")]
    monkeypatch.setattr("sys.argv", words)
    picture.main()
    for theme in ("light", "dark"):
        with Image.open(tmp_path / f"p-{theme}.webp") as drawn:
            assert min(drawn.size) > 100
