import csv
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch

from moleflow_pl import ContinualDataModule, MoLEFlow, Predictor
from moleflow_pl.callbacks import EvaluationCallback
from moleflow_pl.callbacks.evaluation import move_other_report_aside
from moleflow_pl.callbacks.trainers import make_trainer
from moleflow_pl.errors import ConfigError
from moleflow_pl.report.not_evaluated import NOT_EVALUATED, NOT_TESTED
from tests.helpers.models import fit
from tests.helpers.products import draw_product

SPLIT = {"val_fraction": 0.4}


def summary_of(run: Path) -> dict:
    return json.loads((run / "report" / "summary.json").read_text())


def test_report_covers_every_task_routed_and_oracle(learned: tuple[Path, MoLEFlow]) -> None:
    summary = summary_of(learned[0])
    assert summary["tasks"] == ["01", "b"]
    image = summary["metrics"]["image_auroc"]
    assert all(0 <= value <= 1 for value in image["routed"] + image["oracle"])
    assert image["matrix"][0][1] is None
    assert summary["metrics"]["pixel_auroc"]["average"] is not None
    for metric in summary["metrics"].values():
        assert all(0 <= value <= 1 for value in metric["routed"] + metric["oracle"])
    assert image["oracle_forgetting"] == 0
    assert [sum(row) for row in summary["routing"]["confusion"]] == [6, 6]


def test_scores_file_gives_the_summarys_auroc(learned: tuple[Path, MoLEFlow]) -> None:
    from sklearn.metrics import roc_auc_score

    run, _ = learned
    with (run / "report" / "scores.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == "b"]
    labels = [int(row["gt_label"]) for row in rows]
    for column, way in (("score", "routed"), ("oracle_score", "oracle")):
        expected = roc_auc_score(labels, [float(row[column]) for row in rows])
        actual = summary_of(run)["metrics"]["image_auroc"][way][1]
        assert actual == pytest.approx(expected, abs=1e-6)


def test_scores_file_has_the_decisions_of_predict_and_the_summary_counts_them(
    learned: tuple[Path, MoLEFlow],
) -> None:
    run, model = learned
    with (run / "report" / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, one in zip(rows, Predictor(model)([row["path"] for row in rows]), strict=True):
        assert row["label"] == one.label
        assert float(row["threshold"]) == one.threshold
        assert float(row["normalised_score"]) == pytest.approx(one.normalised_score, rel=1e-4)
        assert float(row["novelty_ratio"]) == pytest.approx(one.novelty_ratio, rel=1e-4)
        assert (row["label"] == "anomalous") == (float(row["alarm_rate"]) <= 0.01)
    for product in summary_of(run)["decisions"]["products"]:
        labels = [row["label"] for row in rows if (row["product"], row["gt_label"]) == ("01", "1")]
        if product["product"] == "01":
            assert product["recall"]["count"] == labels.count("anomalous")
            assert product["missed"]["count"] == labels.count("normal")
            assert product["recall"]["of"] == len(labels) == 3


def test_target_recall_is_a_share() -> None:
    with pytest.raises(
        ConfigError, match="target_recall must be a number above 0, up to 1, got 95"
    ):
        EvaluationCallback(target_recall=95)


def test_weights_are_the_same_without_evaluation(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, data_root: Path
) -> None:
    module = fit(tmp_path, data_root, ["01", "b"], callbacks=[])
    expected = learned[1].state_dict()
    assert all(torch.equal(tensor, expected[k]) for k, tensor in module.state_dict().items())
    assert not (tmp_path / "report").exists()


def test_evaluation_after_the_last_task_alone_leaves_earlier_rows_null(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, data_root: Path
) -> None:
    callback = EvaluationCallback(evaluate_every_task=False, map_size=48, blur_sigma=1.0)
    fit(tmp_path, data_root, ["01", "b"], callbacks=[callback])
    actual, full = (summary_of(run)["metrics"]["image_auroc"] for run in (tmp_path, learned[0]))
    assert actual["matrix"] == [[None, None], full["matrix"][1]]


def test_next_task_is_scored_before_it_is_learned_where_asked_for(
    learned: tuple[Path, MoLEFlow], tmp_path: Path, data_root: Path
) -> None:
    assert summary_of(learned[0])["metrics"]["image_auroc"]["forward_transfer"] is None
    callback = EvaluationCallback(map_size=48, blur_sigma=1.0, evaluate_next_task=True)
    module = fit(tmp_path, data_root, ["01", "b"], callbacks=[callback])
    reached = module.schedule.tasks[0].evaluation["zero_shot"]["image_auroc"]
    actual = summary_of(tmp_path)["metrics"]
    assert actual["image_auroc"]["forward_transfer"] == pytest.approx(reached - 0.5)
    assert actual["pixel_auroc"]["forward_transfer"] is not None
    assert (
        actual["image_auroc"]["matrix"]
        == (summary_of(learned[0])["metrics"]["image_auroc"]["matrix"])
    )


def test_report_is_one_page(learned: tuple[Path, MoLEFlow]) -> None:
    page = (learned[0] / "report" / "report.html").read_text()
    assert "labelled anomalous: 3 of 3 defective images" in page
    assert "CPU cores" in page


def test_report_of_other_tasks_or_settings_is_kept(tmp_path: Path) -> None:
    def report(tasks: list[str], settings: dict) -> dict:
        return {"tasks": tasks, "settings": settings}

    folder = tmp_path / "report"
    move_other_report_aside(folder, report(["a"], {}))
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps(report(["a"], {"router": "pooled"})))
    move_other_report_aside(folder, report(["a", "b"], {"router": "pooled"}))
    assert folder.exists()
    move_other_report_aside(folder, report(["a"], {"router": "euclidean"}))
    assert not folder.exists()
    assert (tmp_path / "report~1" / "summary.json").exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{}", b'{"tasks": 3}'])
def test_a_report_with_a_damaged_summary_is_kept_aside(content: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "summary.json").write_bytes(content)
    move_other_report_aside(folder, {"tasks": ["a"], "settings": {}})
    assert (tmp_path / "report~1" / "summary.json").read_bytes() == content


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of `a`, with test images, and `b`, with good images alone."""
    root = tmp_path_factory.mktemp("mixed")
    for seed, name in enumerate("ab"):
        draw_product(root / "data", name, seed, train=12)
    shutil.rmtree(root / "data" / "b" / "test")
    fit(root / "run", root / "data", ["a", "b"], epochs=1, data=SPLIT)
    return root


def page_after_test(root: Path, run: Path, data: Path) -> str:
    """The report that `moleflow test` writes of a run."""
    model = MoLEFlow.load_from_checkpoint(root / "run" / "last.ckpt", weights_only=True)
    module = ContinualDataModule(str(data), ["a", "b"], num_workers=0, **SPLIT)
    trainer = make_trainer(run, logger=False, accelerator="cpu", enable_progress_bar=False)
    trainer.test(model, module, verbose=False)
    return (run / "report" / "report.html").read_text()


def test_a_test_keeps_the_part_of_good_images_alone(mixed: Path, tmp_path: Path) -> None:
    before = summary_of(mixed / "run")["calibration"]
    assert [entry["good_images"] is not None for entry in before] == [False, True]
    page = page_after_test(mixed, tmp_path / "run", mixed / "data")
    assert summary_of(tmp_path / "run")["calibration"] == before
    assert page.count("<h2>Good images</h2>") == 1


def test_products_that_a_test_does_not_find_are_named_on_screen_and_page(
    mixed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(mixed / "data" / "a", tmp_path / "data" / "a")
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        page = page_after_test(mixed, tmp_path / "run", tmp_path / "data")
    assert f"{NOT_EVALUATED}: b" in caplog.messages
    assert f"<p>{NOT_EVALUATED.capitalize()}: b.</p>" in page


def test_fit_of_good_images_ends_by_what_it_evaluated_and_names_who_was_tested_before(
    mixed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(
        "moleflow_pl.callbacks.evaluation.log_table", lambda _, table: titles.append(table.title)
    )
    draw_product(tmp_path / "data", "c", 2, train=12)
    shutil.rmtree(tmp_path / "data" / "c" / "test")
    run = shutil.copytree(mixed / "run", tmp_path / "run")
    with caplog.at_level(logging.INFO, "moleflow_pl"):
        fit(
            run, tmp_path / "data", ["a", "b", "c"], epochs=1, data=SPLIT,
            ckpt_path=run / "last.ckpt",
        )  # fmt: skip
    assert titles == ["good images alone"]
    for line in (f"{NOT_TESTED}: a", f"{NOT_EVALUATED}: b"):
        assert line in caplog.messages
    commands = "\n".join(caplog.messages)
    assert "moleflow test" in commands
    assert "moleflow export" not in commands
    page = (run / "report" / "report.html").read_text()
    assert f"<p>{NOT_TESTED.capitalize()}: a.</p>" in page
    assert "<b>-" not in page
