"""Weights that have moved since a fit, and every command that can be told where they are."""

import re
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from moleflow_pl import MoLEFlow, Predictor
from moleflow_pl.checkpoints.io import read_checkpoint, write_checkpoint
from moleflow_pl.cli.calibrate import main as calibrate
from moleflow_pl.cli.experts import main as experts
from moleflow_pl.errors import ConfigError
from moleflow_pl.export.pipeline import export_checkpoint
from moleflow_pl.model.restore import HYPER_PARAMETERS
from tests.helpers.commands import MODEL, failure, run_here

FIT = ["--data.root=IMAGES", "--data.tasks=[01, b]", *MODEL]
HOW = r"as --model.backbone_weights, or in Python as backbone_weights"


@pytest.fixture
def moved(learned: tuple[Path, MoLEFlow], tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint whose weights are not where it says, and where they are."""
    weights = tmp_path / "new place" / "vit.safetensors"
    weights.parent.mkdir()
    save_file(learned[1].inspector.extractor.backbone.state_dict(), weights)
    checkpoint = read_checkpoint(learned[0] / "last.ckpt")
    checkpoint[HYPER_PARAMETERS]["backbone_weights"] = str(tmp_path / "vit.safetensors")
    path = tmp_path / "run" / "last.ckpt"
    write_checkpoint(checkpoint, path)
    return path, weights


def test_the_message_says_how_to_name_the_place(moved: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"no weights at .*vit.safetensors: .*, {HOW}"):
        Predictor.load(moved[0])
    said = failure(tmp_path, "export", f"--ckpt_path={moved[0]}", "--format=torch")
    assert "as --model.backbone_weights" in said


def test_predictor_and_export_take_the_place(
    moved: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, weights = moved
    assert Predictor.load(path, backbone_weights=str(weights)).products == ["01", "b"]
    asked: list[dict] = []
    monkeypatch.setattr(
        "moleflow_pl.export.pipeline.export_checkpoint",
        lambda *args, **options: asked.append(options) or "written",
    )
    run_here(tmp_path, "export", f"--ckpt_path={path}", f"--model.backbone_weights={weights}")
    assert asked == [{"backbone_weights": str(weights)}]
    with pytest.raises(ConfigError, match="no product 'x'"):  # the model was built
        export_checkpoint(path, tmp_path / "x.pt2", "torch", "x", backbone_weights=str(weights))


@pytest.mark.parametrize(
    "change",
    [
        lambda path, option: calibrate(["--ckpt_path", path, option]),
        lambda path, option: calibrate(["--ckpt_path", path, "--false-alarm-rate=0.1", option]),
        lambda path, option: experts(["list", "--ckpt_path", path, option]),
        lambda path, option: experts(["rename", "b", "x", "--ckpt_path", path, option]),
    ],
    ids=["calibrate", "rate", "list", "rename"],
)
def test_what_changes_a_checkpoint_keeps_the_place_for_later_commands(
    change: object, moved: tuple[Path, Path]
) -> None:
    path, weights = moved
    change(str(path), f"--model.backbone_weights={weights}")  # type: ignore[operator]
    assert len(Predictor.load(path).products) == 2


UNUSABLE = {
    "missing.pth": "no weights at .*missing.pth",
    "junk.safetensors": "junk.safetensors cannot be used: it is damaged",
    "junk.pth": "junk.pth cannot be used: it is damaged",
    "other.safetensors": "written with another backbone",
}


@pytest.mark.parametrize("place", UNUSABLE)
@pytest.mark.parametrize(
    "verb",
    [
        ["calibrate"],
        ["calibrate", "--false-alarm-rate=0.1"],
        ["experts", "list"],
        ["experts", "rename", "b", "x"],
        ["experts", "update", "b", *MODEL],
        ["export", "--format=torch"],
        ["predict", "--data.predict_path=IMAGES", *FIT],
        ["fit", *FIT],
    ],
    ids=lambda words: "-".join(words[:2]),
)
def test_unusable_weights_are_refused_before_the_checkpoint_is_touched(
    verb: list[str], place: str, moved: tuple[Path, Path], tmp_path: Path, data_root: Path
) -> None:
    path, weights = moved
    (tmp_path / "junk.safetensors").write_text("junk\n")
    (tmp_path / "junk.pth").write_text("junk\n")
    save_file({k: t + 1 for k, t in load_file(weights).items()}, tmp_path / "other.safetensors")
    before = path.read_bytes()
    words = [word.replace("IMAGES", str(data_root)) for word in verb]
    words += [f"--ckpt_path={path}", f"--model.backbone_weights={tmp_path / place}"]
    said = failure(tmp_path, *words)
    assert re.match(f"moleflow: .*{UNUSABLE[place]}", said)
    assert path.read_bytes() == before


def test_experts_and_thresholds_need_no_weights(moved: tuple[Path, Path]) -> None:
    calibrate(["--ckpt_path", str(moved[0]), "--false-alarm-rate=0.1"])
    experts(["rename", "b", "x", "--ckpt_path", str(moved[0])])
