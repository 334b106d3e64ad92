import csv
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks import decisions
from benchmarks.decisions import Answers, ContaminatedLayout, false_alarms, unknown_products
from benchmarks.harness.report import Report
from moleflow_pl import MoLEFlow
from moleflow_pl.data.layouts.mvtec import MVTecLayout
from tests.helpers.benchmarks import last_rows, run_script
from tests.helpers.models import TINY_MODEL, fit
from tests.helpers.products import draw_product

PRODUCTS = ["a", "b"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Stripes of two widths, which no one takes for each other."""
    root = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(PRODUCTS):
        draw_product(root, name, 3 * seed, train=40)
    return {"layout": "mvtec", "root": str(root)}


@pytest.fixture
def model(run: Path) -> MoLEFlow:
    """The model of a run on them, to change."""
    return MoLEFlow.load_from_checkpoint(run / "last.ckpt").eval()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data: dict[str, str]) -> Path:
    """A run with calibration images."""
    where = tmp_path_factory.mktemp("run")
    fit(
        where, Path(data["root"]), list(PRODUCTS), epochs=2, callbacks=[],
        data={"val_fraction": 0.3},
    )  # fmt: skip
    return where


def judged(model: MoLEFlow, data: dict[str, str]) -> Report:
    report = Report("decisions")
    decisions.judge_run(report, model, data)
    return report


def test_run_that_knows_its_products_and_their_thresholds_passes(
    model: MoLEFlow, data: dict[str, str]
) -> None:
    report = judged(model, data)
    assert len(report.rows) == 6 + 3 * 2 + 4  # false alarms; one known, both known
    assert report.finish() == 0
    unknown = [row for row in report.rows if row.least == decisions.UNKNOWN]
    assert [row.value for row in unknown] == [100, 100]
    assert {row.unit for row in report.rows[:6]} == {"of 3"}


def test_threshold_that_is_too_low_fails(model: MoLEFlow, data: dict[str, str]) -> None:
    calibration = decisions.calibration_of(model, 1)
    calibration.scores = [score - 1e3 for score in calibration.scores]
    report = judged(model, data)
    assert report.finish() == 1
    missed = [row.what for row in report.rows if not row.holds]
    assert all(what.startswith("b, ") and "false alarms" in what for what in missed)
    assert missed


def test_limit_of_novelty_that_is_too_low_fails(model: MoLEFlow, data: dict[str, str]) -> None:
    calibration = decisions.calibration_of(model, 0)
    calibration.novelty_distances = [1e-3 for _ in calibration.novelty_distances]
    calibration.damaged_novelty_distances = [1e-3 for _ in calibration.damaged_novelty_distances]
    missed = {row.what: row.value for row in judged(model, data).rows if not row.holds}
    assert missed["a known: a, good, unknown"] == 100
    assert missed["a known: a, defective, unknown"] == 100


def test_run_without_calibration_images_is_refused(model: MoLEFlow, data: dict[str, str]) -> None:
    model.schedule.tasks[1].calibration = None
    with pytest.raises(SystemExit, match="b has no calibration"):
        judged(model, data)


def answers(novelty: list[list[float]], defective: list[bool]) -> Answers:
    return Answers(torch.zeros(len(novelty)), torch.tensor(novelty), torch.tensor(defective))


def test_figures_that_miss_their_limit_are_counted_with_the_reason() -> None:
    first = answers([[0.5, 3.0]] * 99 + [[1.5, 3.0]], [False] * 50 + [True] * 50)
    second = answers([[1.2, 0.5]] * 10, [False] * 5 + [True] * 5)
    rows = {row.what: row for row in unknown_products(PRODUCTS, [first, second])}
    assert rows["a known: a, defective, unknown"].value == pytest.approx(2)
    assert rows["a known: a, defective, unknown"].holds
    assert rows["a known: b unknown"].value == 100
    assert rows["a, b known: b, good, unknown"].value == 0
    twin = answers([[0.6, 0.5]] * 10, [False] * 5 + [True] * 5)
    rows = {row.what: row for row in unknown_products(PRODUCTS, [first, twin])}
    assert not rows["a known: b unknown"].holds
    near = answers([[0.4, 0.5]] * 10, [False] * 5 + [True] * 5)
    rows = {row.what: row for row in unknown_products(PRODUCTS, [first, near])}
    assert rows["a known: b unknown"].note == "any limit that leaves known defects known: 0.0 %"


def test_more_false_alarms_than_chance_allows_are_a_miss(model: MoLEFlow) -> None:
    defective = torch.arange(60) >= 50
    all_above = Answers(torch.full((60,), 1e9), torch.zeros(60, 2), defective)
    assert not any(row.holds for row in false_alarms(model, [all_above, all_above]))


def test_where_there_is_no_image_nothing_is_measured() -> None:
    good = answers([[0.5, 3.0]] * 10, [False] * 10)
    rows = {row.what: row for row in unknown_products(PRODUCTS, [good, good])}
    assert rows["a known: a, defective, unknown"].value is None
    assert rows["a known: b unknown"].note == "any limit that leaves known defects known: 0.0 %"


def test_contaminated_images_are_a_share_of_training_and_leave_the_test(tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0, train=18)
    layout = MVTecLayout(tmp_path)
    contaminated = ContaminatedLayout(layout, 0.1)
    train, test = contaminated.train("a"), contaminated.test("a")
    moved = [i for i, record in enumerate(train) if "square" in str(record.path)]
    assert len(train) == 20
    assert 3 < moved[0] < moved[1] < 17
    assert sorted(record.path for record in [*train, *test]) == sorted(
        record.path for record in [*layout.train("a"), *layout.test("a")]
    )


def test_contamination_is_measured_by_oracle_scores_and_thresholds(
    tmp_path: Path,
    data: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = {
        "seed_everything": 0,
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
        "model": TINY_MODEL,
        "data": {"root": data["root"], "tasks": ["a"], "num_workers": 0},
        "schedule": {"epochs_per_task": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    learned: list[tuple[MoLEFlow, list[dict[str, str]]]] = []
    learn = decisions.learn

    def watch(config: dict, share: float, run: Path) -> MoLEFlow:
        model = learn(config, share, run)
        with (run / "report" / "scores.csv").open() as file:
            learned.append((model, list(csv.DictReader(file))))
        return model

    monkeypatch.setattr(decisions, "learn", watch)
    arguments = ["contamination", f"--config={tmp_path / 'config.yaml'}", "--share=0.03"]
    assert run_script(decisions.main, monkeypatch, *arguments) == 0
    rows = last_rows(capsys)
    ((model, scores),) = learned
    assert sum(row["gt_label"] == "1" for row in scores) == 2  # one of three is trained on
    limit = decisions.calibration_of(model, 0).score_threshold.value
    for what, label in (("false alarms", "0"), ("defective ones found", "1")):
        above = [float(row["oracle_score"]) > limit for row in scores if row["gt_label"] == label]
        assert rows[f"3% defective, a: {what}"]["value"] == 100 * sum(above) / len(above)
