"""What users do with one run by the command; fresh processes where they prove more."""

import csv
import json
import re
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml

from moleflow_pl.cli import main as cli
from tests.helpers.commands import MODEL, failure, moleflow, run_here
from tests.helpers.products import draw_product
from tests.helpers.story import Story

ROOT = Path(__file__).parents[2]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_fit_ends_with_a_table_and_the_files(story: Story) -> None:
    said = story.output["stdout"]
    for word in ("images to learn", "01", "image AUROC", "oracle"):
        assert word in said
    # last what a line would do
    metrics, _, decisions = said.partition("decisions about the test images at each")
    assert "after the last task" in metrics
    assert "after the last task" not in decisions
    for word in ("false", "missed", "recall", "precision", "unknown", "of 3", "Wilson"):
        assert word in decisions
    ending = said.rstrip().splitlines()[-4:]
    assert ending[0] == f"report: {story.run / 'report' / 'report.html'}"
    assert [line.partition(": moleflow ")[2].split()[0] for line in ending[1:]] == [
        "predict", "calibrate", "export",
    ]  # fmt: skip
    assert "error" not in story.output["stderr"].lower()


@pytest.mark.parametrize(
    "noise", ["litlogger", "litmodels", "will be deleted", "DataLoader 0", "Seed set", "Warning"]
)
def test_a_fit_says_nothing_that_is_of_no_use(noise: str, story: Story) -> None:
    said = (story.output["stdout"] + story.output["stderr"]).splitlines()
    # of the oldest torchmetrics, as the newest torch imports it
    assert not [line for line in said if noise in line and "torch.jit.interface" not in line]


def test_a_fit_leaves_the_files_of_a_run(story: Story) -> None:
    assert story.files == {
        "config.yaml", "last.ckpt", "metrics.csv", "tasks/00-01.ckpt", "tasks/01-b.ckpt",
        "report/summary.json", "report/matrix.csv", "report/scores.csv", "report/report.html",
    }  # fmt: skip


def test_config_of_the_run_is_complete(story: Story) -> None:
    config = yaml.safe_load(story.config)
    assert config["data"]["tasks"] == ["01", "b"]
    assert config["model"]["lora_rank"] == 2
    assert config["schedule"]["epochs_per_task"] == 2


def test_curves_are_logged_per_task(story: Story) -> None:
    table = rows(story.moved / "metrics.csv")
    for task in ("01", "b"):
        for curve in ("nll_per_dim", "grad_norm", "lr"):
            assert sum(bool(row[f"train/{task}/{curve}"]) for row in table) == 2
    rates = [float(row["train/b/lr"]) for row in table if row["train/b/lr"]]
    assert rates == pytest.approx([1e-3, 2e-3])


def has_the_numbers_of_fit(run: Path, story: Story) -> None:
    summary = story.summary_of(run)
    for part in ("tasks", "routing", "metrics"):
        assert summary[part] == story.summary[part]
    assert summary["cost"]["fit_seconds"] == story.summary["cost"]["fit_seconds"]
    assert (run / "config.yaml").read_text() == story.config


def test_test_and_predict_in_fresh_processes_give_the_numbers_of_fit(story: Story) -> None:
    flags = [story.run, "--trainer.accelerator=cpu"]
    tested = moleflow(story.where, "test", *flags, script=True)  # by `python cli.py`
    assert "image AUROC" in tested.stdout
    has_the_numbers_of_fit(story.run, story)
    images = story.data / "b" / "test" / "square"
    (images / "notes.txt").touch()
    said = moleflow(story.where, "predict", story.run, images).stdout
    (images / "notes.txt").unlink()
    folder = story.run / "predictions"
    skipped = "skipped 1 files that are not images: notes.txt"
    places = f"predictions: {folder / 'predictions.csv'}", f"heatmaps: {folder / 'heatmaps'}"
    for words in ("unknown_product", "│ b ", skipped, *places):
        assert words in said
    assert "DataLoader" not in said
    agrees_with_test(story.run, 3)
    assert (story.run / "config.yaml").read_text() == story.config


def agrees_with_test(run: Path, count: int) -> None:
    """Every predicted score is that of the test."""
    tested = {row["path"]: float(row["score"]) for row in rows(run / "report" / "scores.csv")}
    predicted = rows(run / "predictions" / "predictions.csv")
    assert len(predicted) == count
    for row in predicted:
        assert float(row["score"]) == pytest.approx(tested[row["path"]], rel=1e-5)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (f"{'a' * 300}.png", ": give a file"),
        ("in", r" \(not used: 1 hidden \(\.x/1\.png\)\): give"),
    ],
)
def test_predict_of_a_path_without_images_ends_in_one_line(
    images: str, told: str, story: Story, tmp_path: Path
) -> None:
    (tmp_path / "in" / ".x").mkdir(parents=True)
    (tmp_path / "in" / ".x" / "1.png").touch()
    said = failure(tmp_path, "predict", story.copy_to(tmp_path), images)
    assert re.match(f"moleflow: no image at {images}{told}", said)
    assert "\n" not in said


def test_test_and_predict_work_twice_where_a_run_was_moved_to(story: Story, tmp_path: Path) -> None:
    run = story.copy_to(tmp_path)
    path, images = f"--ckpt_path={run / 'last.ckpt'}", story.data / "b" / "test" / "square"
    for _ in range(2):
        run_here(tmp_path, "test", path, "--trainer.accelerator=cpu")
        has_the_numbers_of_fit(run, story)
        run_here(tmp_path, "predict", path, f"--data.predict_path={images}")
        agrees_with_test(run, 3)
    assert (run / "config.yaml").read_text() == story.config


def test_validate_needs_the_checkpoint_alone(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(tmp_path, "validate", "--ckpt_path", story.moved / "last.ckpt")
    shown = capsys.readouterr().out
    assert "routing accuracy" in shown
    assert "DataLoader" not in shown
    assert "routing_acc" not in shown


def test_fit_goes_on_from_a_task_checkpoint_and_ends_the_same(story: Story, tmp_path: Path) -> None:
    run = tmp_path / "resumed"
    (run / "tasks").mkdir(parents=True)
    shutil.copy(story.moved / "tasks" / "00-01.ckpt", run / "tasks")
    # no other argument: the checkpoint says how its run was configured
    run_here(tmp_path, "fit", "--ckpt_path", run / "tasks" / "00-01.ckpt")
    summary = story.summary_of(run)
    assert summary["metrics"] == story.summary["metrics"]
    assert summary["routing"] == story.summary["routing"]


def test_product_is_added_to_a_finished_run_without_the_old_folders(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = story.copy_to(tmp_path), tmp_path / "new"
    draw_product(data, "c", 2, masks=False)
    run_here(
        tmp_path, "fit", "--ckpt_path", run / "last.ckpt", f"--data.root={data}",
        "--data.tasks=[01, b, c]", "--schedule.epochs_per_task=1",
    )  # fmt: skip
    shown = capsys.readouterr().out
    assert " c " in shown
    assert "not tested again, because no test images were found: 01, b\n" in shown
    summary = story.summary_of(run)
    assert summary["tasks"] == ["01", "b", "c"]
    assert summary["metrics"]["image_auroc"]["routed"][:2] == [None, None]
    assert summary["metrics"]["image_auroc"]["routed"][2] is not None
    assert (
        summary["metrics"]["image_auroc"]["matrix"][1][:2]
        == (story.summary["metrics"]["image_auroc"]["matrix"][1])
    )
    old = torch.load(story.moved / "last.ckpt", weights_only=True)["state_dict"]
    new = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(new[key], tensor) for key, tensor in old.items())
    assert (run / "metrics~1.csv").exists()


def test_new_fit_moves_the_old_run_aside(tmp_path: Path, data_root: Path) -> None:
    fit = ["fit", f"--data.root={data_root}", "--data.tasks=[b]", *MODEL]
    fit += ["--schedule.epochs_per_task=1", "--trainer.default_root_dir=runs/x"]
    run_here(tmp_path, *fit)
    first = (tmp_path / "runs/x/last.ckpt").read_bytes()
    run_here(tmp_path, *fit, "--schedule.epochs_per_task=2")
    assert (tmp_path / "runs/x~1/last.ckpt").read_bytes() == first
    assert (tmp_path / "runs/x/report/summary.json").exists()


def test_failing_fit_leaves_the_old_run_where_it_is(tmp_path: Path, data_root: Path) -> None:
    fit = ["fit", f"--data.root={data_root}", *MODEL, "--trainer.default_root_dir=run"]
    run_here(tmp_path, *fit, "--data.tasks=[b]", "--schedule.epochs_per_task=1")
    message = failure(tmp_path, *fit, "--data.tasks=[b, nothing]")
    assert "no product 'nothing'" in message
    assert "['01', 'b', 'c']" in message
    assert (tmp_path / "run" / "last.ckpt").exists()
    assert not (tmp_path / "run~1").exists()


@pytest.mark.parametrize(
    "model",
    [
        ["--model.image_size=[32,80]"],
        ["--model.image_size=[64,96]", "--model.tile=48", "--model.tile_overlap=16"],
    ],
)
def test_oblong_and_tiled_images_go_all_the_way(
    model: list[str], tmp_path: Path, data_root: Path
) -> None:
    fit = ["fit", f"--data.root={data_root}", "--data.tasks=[01, b]", *MODEL, *model]
    fit += ["--schedule.epochs_per_task=1", "--trainer.default_root_dir=run"]
    run_here(tmp_path, *fit)
    run, images = tmp_path / "run", data_root / "b" / "test"
    assert metric(run, "pixel_auroc") is not None
    path = f"--ckpt_path={run / 'last.ckpt'}"
    run_here(tmp_path, "predict", path, f"--data.predict_path={images}")
    agrees_with_test(run, 6)


def metric(run: Path, name: str) -> float | None:
    summary = json.loads((run / "report" / "summary.json").read_text())
    return summary["metrics"][name]["average"]


def test_folders_of_good_images_are_learned_and_end_with_what_is_known(
    tmp_path: Path, data_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("01", "b"):
        shutil.copytree(data_root / name / "train" / "good", tmp_path / "good" / name)
    fit = ["fit", "--data.root=good", "--data.layout=folder", "--data.tasks=[01, b]", *MODEL]
    fit += ["--schedule.epochs_per_task=1", "--trainer.default_root_dir=run"]
    run_here(tmp_path, *fit)
    run, said = tmp_path / "run", capsys.readouterr().out
    for words in ("too few calibration images", "99 are enough", "good images alone", "1 of 1"):
        assert words in said
    assert "image AUROC" not in said
    assert "moleflow predict run IMAGES" in said
    assert metric(run, "image_auroc") is None
    path = f"--ckpt_path={run / 'last.ckpt'}"
    images = f"--data.predict_path={data_root / 'b' / 'test' / 'good'}"
    run_here(tmp_path, "predict", path, images)
    products = {row["product"] for row in rows(run / "predictions" / "predictions.csv")}
    assert products == {"b"}
    said = failure(tmp_path, "test", path)
    assert "no image to test" in said
    assert "layout folder has no test images" in said
    assert "give images: moleflow predict RUN IMAGES" in failure(tmp_path, "predict", path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data.tasks=[b, b]"], "more than once"),
        (["--data.root=nowhere", "--data.tasks=[b]"], "the expected tree"),
        (["--model.image_size=50", "--data.tasks=[b]"], "nearest sizes that fit"),
        (["--trainer.max_epochs=3", "--data.tasks=[b]"], "set schedule.epochs_per_task"),
        (["--ckpt_path=no.ckpt", "--data.tasks=[b]"], "no checkpoint at no.ckpt"),
        (["--ckpt_path=other/last.ckpt", "--data.tasks=[b]"], "no checkpoint at other/last.ckpt"),
        (
            ["--trainer.devices=2", "--trainer.strategy=ddp_spawn", "--data.tasks=[b]"],
            "need trainer.strategy ddp",
        ),
        (["--trainer.precision=16-true", "--data.tasks=[b]"], "or bf16-mixed"),
    ],
)
def test_bad_input_ends_in_one_clear_message(
    flags: list[str], message: str, tmp_path: Path, data_root: Path
) -> None:
    said = failure(tmp_path, "fit", f"--data.root={data_root}", *MODEL, *flags)
    assert said.startswith("moleflow: ")
    assert message in said
    assert not (tmp_path / "runs" / "moleflow" / "config.yaml").exists()


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_command_reads_its_checkpoint_once(
    verb: str, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = story.copy_to(tmp_path)
    reads: list[Path] = []

    def counted(file: object, *args: object, **options: object) -> object:
        if isinstance(file, (str, Path)):
            reads.append(Path(file))
        return torch_load(file, *args, **options)

    torch_load = torch.load
    monkeypatch.setattr(torch, "load", counted)
    run_here(tmp_path, verb, f"--ckpt_path={run / 'last.ckpt'}")
    assert reads.count(run / "last.ckpt") == 1


@pytest.mark.parametrize(
    "flag", ["--data.tasks=[01, b, typo]", "--data.tasks=[b]", "--model.lora_rank=3"]
)
def test_failing_fit_that_goes_on_changes_nothing_of_the_run(
    flag: str, story: Story, tmp_path: Path
) -> None:
    run = story.copy_to(tmp_path)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    failure(tmp_path, "fit", f"--ckpt_path={run / 'last.ckpt'}", flag)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_going_on_before_the_first_checkpoint_begins_anew_where_the_run_is(
    tmp_path: Path, data_root: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    flags = [f"--data.root={data_root}", "--data.tasks=[b]", *MODEL]
    flags += [f"--trainer.default_root_dir={run}", f"--ckpt_path={run / 'last.ckpt'}"]
    run_here(tmp_path, "fit", *flags, "--schedule.epochs_per_task=1")
    assert (run / "report" / "summary.json").exists()
    assert (run / "config.yaml").stat().st_size
    assert not (tmp_path / "run~1").exists()


def test_damaged_checkpoint_is_refused_and_the_one_before_goes_on(
    story: Story, tmp_path: Path
) -> None:
    run = story.copy_to(tmp_path)
    (run / "tasks" / "01-b.ckpt").unlink()
    (run / "last.ckpt").write_bytes((run / "last.ckpt").read_bytes()[:5000])
    said = failure(tmp_path, "fit", f"--ckpt_path={run / 'last.ckpt'}")
    before = run / "tasks" / "00-01.ckpt"
    assert "last.ckpt is damaged" in said
    assert said.endswith(f"--ckpt_path {before}")
    run_here(tmp_path, "fit", f"--ckpt_path={before}")
    assert story.summary_of(run)["metrics"] == story.summary["metrics"]


def test_branching_from_a_task_keeps_the_run_it_leaves(story: Story, tmp_path: Path) -> None:
    run = story.copy_to(tmp_path)
    early = run / "tasks" / "00-01.ckpt"
    run_here(tmp_path, "fit", f"--ckpt_path={early}", "--data.tasks=[01, c]")
    assert story.summary_of(run)["tasks"] == ["01", "c"]
    assert story.summary_of(tmp_path / "run~1")["tasks"] == ["01", "b"]


def test_testing_with_another_router_keeps_the_old_report_and_says_so(
    story: Story, tmp_path: Path
) -> None:
    run = story.copy_to(tmp_path)
    path = run / "last.ckpt"
    run_here(tmp_path, "test", f"--ckpt_path={path}", "--model.router=euclidean")
    assert "router: euclidean" in (run / "report" / "report.html").read_text()
    assert story.summary_of(run)["settings"]["router"] == "euclidean"
    assert "router: pooled" in (run / "report~1" / "report.html").read_text()


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_image_is_named(workers: int, tmp_path: Path) -> None:
    draw_product(tmp_path, "a", 0)
    (tmp_path / "a" / "train" / "good" / "003.png").write_bytes(b"no image")
    flags = [f"--data.root={tmp_path}", "--data.tasks=[a]", *MODEL, f"--data.num_workers={workers}"]
    said = failure(tmp_path, "fit", *flags)
    assert said.startswith("moleflow: 1 of 12 images cannot be used")
    assert "003.png: cannot identify" in said
    said = failure(tmp_path, "fit", *flags, "--data.check_files=false")
    assert said.startswith("moleflow: cannot read the image")
    assert "003.png" in said


def test_other_model_arguments_than_the_checkpoints_are_a_conflict(story: Story) -> None:
    path = story.moved / "last.ckpt"
    said = failure(story.where, "test", f"--ckpt_path={path}", "--model.lora_rank=3")
    assert "lora_rank: file 2, model 3" in said


def test_report_says_what_was_run(story: Story) -> None:
    page = (story.moved / "report" / "report.html").read_text()
    assert "lora_rank: 2" in page
    assert "sha256" in page
    assert version("torch") in page


def test_runs_are_set_side_by_side(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = story.copy_to(tmp_path)
    runs = [f"--run={copy}", f"--run={story.moved}"]
    cli.main(["report", *runs, f"--output={tmp_path / 'out'}"])
    assert capsys.readouterr().out.count("comparison.") == 3
    assert (tmp_path / "out" / "comparison.html").exists()
    with pytest.raises(SystemExit, match="no report/summary.json"):
        cli.main(["report", "--run", str(tmp_path / "out")])
