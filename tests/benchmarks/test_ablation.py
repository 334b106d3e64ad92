from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ablation
from benchmarks.ablation import fraction_row
from benchmarks.harness import one_model, plans
from benchmarks.harness.baselines import STRONG_BANK
from benchmarks.harness.one_model import DEFAULT_WAY, IMAGE_WAYS, PRESETS
from benchmarks.harness.plans import Recipe
from benchmarks.harness.variant_banks import SETS, UNCHANGED
from moleflow_pl import MoLEFlow
from tests.helpers.benchmarks import METHOD, TINY, last_rows, run_script

PARTS = {"cnn": "bank", "vit": "depths"}  # beside the groups, by key of the backbone
CNN, VIT = (f"a tiny {kind}" for kind in PARTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the runs of this file share."""
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture
def arguments(folder: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two tiny products on a tiny backbone, in the place of both."""
    for kind, part in PARTS.items():
        scores = ("norm", part, "groups", f"{part}+groups")
        method = Recipe("method", METHOD.model | {"score": [part, "groups"]}, scores=scores)
        backbone = replace(TINY, key=kind, name=f"a tiny {kind}", method=method)
        monkeypatch.setattr(ablation, kind.upper(), backbone)
        monkeypatch.setitem(plans.BACKBONES, kind, backbone)
    return [
        f"--root={data_root}", "--products", "01", "b", "--seeds=0", "--small",
        f"--folder={folder}",
    ]  # fmt: skip


@pytest.fixture
def judged(
    arguments: list[str], folder: Path, data_root: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Three tiny products, two of which are judged."""
    monkeypatch.setattr(plans, "CALIBRATION", 0.5)
    return [
        f"--root={data_root}", "--products", "01", "b", "c", "--judged", "b", "c", "--small",
        f"--folder={folder}",
    ]  # fmt: skip


@pytest.mark.slow
def test_every_change_stands_beside_the_defaults(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"no adapter": Recipe("no-adapter", {"use_task_adapter": False})}
    monkeypatch.setattr(ablation, "LEARNING", changes)
    monkeypatch.setattr(ablation, "CNN_FEATURES", {"not averaged": {"smooth": 3}})
    code = run_script(ablation.main, monkeypatch, "defaults", *arguments, "--backbones=cnn")
    assert code == 0
    rows = last_rows(capsys)
    first = rows[f"{CNN}, no memory bank, the defaults: b, image_auroc"]
    assert first["note"] == ""
    for what in (
        "no adapter", "score NLL, log-det averaged", "features not averaged",
        "images scored by the highest patch",
    ):  # fmt: skip
        row = rows[f"{CNN}, no memory bank, {what}: b, image_auroc"]
        assert row["note"] == f"{row['value'] - first['value']:+.3f}"
    for what in (
        "no memory bank", "bank at the flow's end alone", "bank half-way through the flow too",
        "the same, no banks of groups", "features not averaged",
    ):  # fmt: skip
        assert rows[f"{CNN}, memory bank, {what}: b, pixel_ap"]["note"]


def test_features_of_the_cnns_table_can_be_built() -> None:
    for what, changed in ablation.CNN_FEATURES.items():
        arguments = {**plans.CNN.arguments, **changed, "backbone_weights": "random"}
        assert MoLEFlow(**arguments).hparams["backbone"] == "tf_efficientnet_lite0", what


@pytest.mark.slow  # the small CNN's table is made likewise
def test_features_and_depths_of_a_vit_stand_beside_its_defaults(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation, "FEATURES", {"layers": [1]})
    assert run_script(ablation.main, monkeypatch, "defaults", *arguments, "--backbones=vit") == 0
    rows = last_rows(capsys)
    for what in ("bank at the flow's end alone", "position code", "blocks 8 to 11"):
        assert rows[f"{VIT}, memory bank, {what}: 01, image_auroc"]["note"]
    assert f"{VIT}, no memory bank, features averaged: 01, image_auroc" in rows


@pytest.mark.parametrize(("loss", "holds"), [(0.004, True), (0.006, False)])
def test_share_of_the_patches_may_cost_little(loss: float, holds: bool) -> None:
    limits = {"least": ablation.FRACTION_COST}
    row = fraction_row("x", [0.9 - loss, 0.8 - loss], [0.9, 0.8], limits)
    assert row.value == pytest.approx(-loss)
    assert row.holds == holds


def test_shares_of_the_patches_are_compared_with_all(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation, "FRACTION_COST", 2.0)  # no figure gains so much
    monkeypatch.setattr(ablation, "FRACTIONS", [(0.5, 40), (0.5, 1)])
    assert run_script(ablation.main, monkeypatch, "patch-fraction", *arguments) == 1
    rows = last_rows(capsys)
    as_many = {what: row["holds"] for what, row in rows.items() if "40 epochs: i" in what}
    assert as_many
    assert not any(as_many.values())
    assert all(row["holds"] for what, row in rows.items() if "1 epochs" in what)


@pytest.mark.parametrize(("least", "code"), [(-1.0, 0), (1.0, 1)])
def test_pixels_of_a_finer_grid_are_judged_against_the_bank(
    least: float,
    code: int,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ablation, "SIZES", {48: -1.0, 64: least})
    assert run_script(ablation.main, monkeypatch, "resolution", *arguments) == code
    missed = [what for what, row in last_rows(capsys).items() if not row["holds"]]
    assert len(missed) == code
    assert all("memory bank, pixel_ap above it" in what for what in missed)


def require_judged(rows: dict[str, Any], title: str, compared: Iterable[str]) -> None:
    """Check that all that is compared has figures of the judged products, and of no other."""
    for what in compared:
        assert f"{title}, image_auroc, {what}: b" in rows
        assert f"{title}, image_auroc, {what}: c" in rows
        assert f"{title}, pixel_ap, {what}: b" in rows
        assert f"{title}, pixel_ap, {what}: c" not in rows  # it has no masks
        assert f"{title}, image_auroc, {what}: 01" not in rows


@pytest.mark.parametrize("kind", PARTS)
def test_parts_stand_beside_the_presets(
    kind: str,
    judged: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_script(ablation.main, monkeypatch, "parts", *judged, f"--backbones={kind}") == 0
    rows, title = last_rows(capsys), f"a tiny {kind}"
    alone = [f"{part} alone" for part in (PARTS[kind], "groups")]
    others = ["the norm added", "no memory bank", "no soft projection"]
    require_judged(rows, title, [PRESETS, *alone, *others])
    first = rows[f"{title}, pixel_ap, {PRESETS}: b"]["value"]
    other = rows[f"{title}, pixel_ap, no memory bank: b"]
    assert other["note"] == f"{other['value'] - first:+.4f}"


def test_image_scores_stand_beside_the_default(
    judged: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(ablation.main, monkeypatch, "image-score", *judged, "--backbones=vit") == 0
    rows = last_rows(capsys)
    assert rows[f"{VIT}, image_auroc, {DEFAULT_WAY}: mean"]["note"] == ""
    for way in IMAGE_WAYS:
        assert f"{VIT}, image_auroc, {way}: c" in rows


@pytest.mark.parametrize(("found", "code"), [([0.9, 0.903], 0), ([0.9, 0.905], 1)])
def test_draws_may_not_spread(
    found: list[float],
    code: int,
    judged: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(one_model, "DRAWS", 2)
    monkeypatch.setattr(one_model, "aurocs_of_draws", lambda *_: found)
    assert run_script(ablation.main, monkeypatch, "draws", *judged, "--backbones=vit") == code
    rows = last_rows(capsys)
    assert len(rows) == 2
    for row in rows.values():
        assert row["value"] == pytest.approx(found[1] - found[0])
        assert row["note"].startswith(f"mean {sum(found) / 2:.4f}, standard deviation")


def test_banks_with_variants_stand_beside_the_bank_without(
    judged: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script(ablation.main, monkeypatch, "variants", *judged) == 0
    rows = last_rows(capsys)
    for backbone in (CNN, VIT):
        require_judged(rows, f"{backbone}, {STRONG_BANK}", SETS)
        assert rows[f"{backbone}, {STRONG_BANK}, image_auroc, {UNCHANGED}: mean"]["note"] == ""


def test_kinds_of_prototypes_route_the_products_of_the_command_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(plans.BACKBONES, TINY.key, TINY)
    given = ["routing", *arguments, f"--backbones={TINY.key}"]
    assert run_script(ablation.main, monkeypatch, *given) == 0
    assert last_rows(capsys)[f"{TINY.name}, regions 4 x 4: b, good"]["value"] == 1.0


def test_resolutions_are_those_of_the_vit(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_script(ablation.main, monkeypatch, "resolution", *arguments, "--backbones=cnn")
    assert "invalid choice: 'cnn'" in capsys.readouterr().err
