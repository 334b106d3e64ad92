"""Two processes learn three tasks as one does, by the command."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import MODEL, ROOT, moleflow, run_here
from tests.helpers.products import draw_product
from tests.helpers.shared import built_once

pytestmark = (
    pytest.mark.slow
)  # `tests/_internal/test_distributed.py` adds up shares of three processes

EPOCHS = 2
TWO = ["--data.batch_size=2", "--trainer.devices=2", "--trainer.strategy=ddp"]


class Pair:
    """One run by one process with batches of 4, and one by two with batches of 2."""

    def __init__(self, where: Path) -> None:
        self.where, self.one, self.two = where, where / "one", where / "two"
        self._output = where / "output.txt"
        if not self._output.exists():
            self._fit()
        self.output = self._output.read_text()

    def _fit(self) -> None:
        data = self.where / "data"
        for seed, name in enumerate("abc"):
            # one of six images is for calibration; the last batch of five leaves one process with
            # nothing
            draw_product(data, name, seed, train=6)
        # so that the ranks' shares of what is tested are unequal too
        (data / "b" / "test" / "good" / "002.png").unlink()
        fit = ["fit", f"--data.root={data}", "--data.tasks=[a, b, c]", *MODEL]
        # of 4 x 4 patches
        fit += ["--model.image_size=64", "--model.patch_fraction=0.5", "--model.loss=tail"]
        fit += [f"--schedule.epochs_per_task={EPOCHS}"]
        run_here(self.where, *fit, f"--trainer.default_root_dir={self.one}")
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        # the second process reads what the first has written
        fit += ["--data.feature_memory_gb=0"]
        fit += ["--trainer.callbacks=tests.helpers.keep_ranks.KeepRanks", *TWO]
        fit += [f"--trainer.default_root_dir={self.two}"]
        said = moleflow(self.where, *fit, env={"PYTHONPATH": path})
        self._output.write_text(said.stdout)

    def summaries(self) -> tuple[dict, dict]:
        one, two = (run / "report" / "summary.json" for run in (self.one, self.two))
        return json.loads(one.read_text()), json.loads(two.read_text())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return built_once(tmp_path_factory, "pair", Pair)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_ranks_hold_equal_tensors_after_every_epoch_of_every_task(pair: Pair) -> None:
    moments = [*(f"epoch{i}" for i in range(3 * EPOCHS)), "end"]
    for moment in moments:
        first, second = (
            torch.load(pair.two / "ranks" / f"{moment}-{rank}.pt", weights_only=True)
            for rank in (0, 1)
        )
        assert list(first) == list(second)
        assert all(torch.equal(first[key], second[key]) for key in first), moment


def test_two_processes_learn_what_one_does(pair: Pair) -> None:
    for name in ("last.ckpt", "tasks/00-a.ckpt", "tasks/01-b.ckpt", "tasks/02-c.ckpt"):
        one, two = (
            torch.load(run / name, weights_only=True)["state_dict"] for run in (pair.one, pair.two)
        )
        assert list(one) == list(two)
        for key, tensor in one.items():
            # one step moves a weight by some 1e-3; sums are rounded in another order
            torch.testing.assert_close(two[key], tensor, rtol=1e-5, atol=5e-6, msg=key)


def test_each_test_image_is_scored_once_in_the_order_of_one_process(pair: Pair) -> None:
    one, two = (rows(run / "report" / "scores.csv") for run in (pair.one, pair.two))
    assert [row["path"] for row in two] == [row["path"] for row in one]
    assert len({row["path"] for row in two}) == len(two) == 17
    for a, b in zip(one, two, strict=True):
        assert float(b["score"]) == pytest.approx(float(a["score"]), rel=1e-5)
    first, second = pair.summaries()
    assert second["routing"] == first["routing"]
    for metric, expected in first["metrics"].items():
        for way in ("routed", "oracle"):
            assert second["metrics"][metric][way] == pytest.approx(expected[way], abs=1e-3)


def test_curves_are_those_of_one_process(pair: Pair) -> None:
    one, two = (rows(run / "metrics.csv") for run in (pair.one, pair.two))
    assert len(one) == len(two)
    for key in ("train/b/nll_per_dim", "train/c/grad_norm"):
        expected = [float(row[key]) for row in one if row[key]]
        assert [float(r[key]) for r in two if r[key]] == pytest.approx(expected, rel=1e-4)


def test_one_process_writes_and_speaks(pair: Pair) -> None:
    files = [
        {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and "ranks" not in p.parts}
        for run in (pair.one, pair.two)
    ]
    assert files[0] == files[1]
    assert pair.output.count("report: ") == 1
    assert pair.output.count("images to learn") == 1


def test_two_processes_predict_what_one_tests(pair: Pair, tmp_path: Path) -> None:
    expected = rows(pair.one / "report" / "scores.csv")
    run = shutil.copytree(pair.two, tmp_path / "run")
    checkpoint = f"--ckpt_path={run / 'last.ckpt'}"
    moleflow(pair.where, "predict", checkpoint, *TWO, "--trainer.accelerator=cpu")
    predicted = rows(run / "predictions" / "predictions.csv")
    assert [row["path"] for row in predicted] == [row["path"] for row in expected]
    for a, b in zip(expected, predicted, strict=True):
        assert float(b["score"]) == pytest.approx(float(a["score"]), rel=1e-5)
    pictures = (run / "predictions" / "heatmaps").rglob("*.jpg")
    assert len(list(pictures)) == len(expected)


def test_two_processes_test_what_one_does(pair: Pair, tmp_path: Path) -> None:
    shutil.copytree(pair.one, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "report")
    checkpoint = f"--ckpt_path={tmp_path / 'run' / 'last.ckpt'}"
    told = moleflow(tmp_path, "test", checkpoint, *TWO, "--trainer.accelerator=cpu")
    one, two = (run / "report" for run in (pair.one, tmp_path / "run"))
    assert told.stdout.count("report: ") == 1
    assert sorted(p.name for p in two.iterdir()) == sorted(p.name for p in one.iterdir())
    expected, found = rows(one / "scores.csv"), rows(two / "scores.csv")
    assert [row["path"] for row in found] == [row["path"] for row in expected]
    for a, b in zip(expected, found, strict=True):
        assert b["routed_task"] == a["routed_task"]
        for key in ("score", "oracle_score", "router_distance"):
            assert float(b[key]) == pytest.approx(float(a[key]), rel=1e-5)
    before, after = (json.loads((p / "summary.json").read_text()) for p in (one, two))
    assert after["routing"] == before["routing"]
    for metric, values in before["metrics"].items():
        for way in ("routed", "oracle"):
            assert after["metrics"][metric][way] == pytest.approx(values[way], abs=1e-6)


def curves(told: str) -> dict[str, list[float]]:
    """NLL and routing accuracy of each task that `validate` shows."""
    found = re.findall(r"│ (\w) +│ +(-?[0-9.]+) │ +(-?[0-9.]+) │", told)
    return {name: [float(value) for value in values] for name, *values in found}


def test_two_processes_validate_what_one_does(pair: Pair) -> None:
    args = ["validate", f"--ckpt_path={pair.one / 'last.ckpt'}", "--trainer.accelerator=cpu"]
    # narrower, the table cuts names and numbers
    wide = {"COLUMNS": "200"}
    told = moleflow(pair.where, *args, *TWO, env=wide).stdout
    expected = curves(moleflow(pair.where, *args, env=wide).stdout)
    assert [*expected] == ["a", "b", "c"]
    assert told.count("calibration images") == 1
    found = curves(told)
    assert [*found] == [*expected]
    for task, values in expected.items():
        assert found[task] == pytest.approx(values, abs=2e-3)
