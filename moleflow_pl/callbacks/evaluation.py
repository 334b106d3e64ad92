"""Scores the test images of every learned task, and writes the report."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from moleflow_pl._internal.console import log_table
from moleflow_pl._internal.distributed import gather
from moleflow_pl._internal.files import read_json, require_folder, write_text
from moleflow_pl._internal.printable import printable
from moleflow_pl._internal.result_names import PAGE_FILE, SUMMARY_FILE
from moleflow_pl._internal.steps import step
from moleflow_pl._internal.validation import require_number
from moleflow_pl.callbacks.good_images import evaluate_good_images
from moleflow_pl.callbacks.last_messages import fit_ending
from moleflow_pl.callbacks.logged_pictures import log_gallery
from moleflow_pl.callbacks.progress import is_trial, takes_every_batch
from moleflow_pl.callbacks.suspects import look_at_suspects
from moleflow_pl.checkpoints.run_folder import RunFolder, move_aside
from moleflow_pl.data.batches import Batch
from moleflow_pl.data.trainer_data import data_of
from moleflow_pl.errors import DataError
from moleflow_pl.inference.decisions import DecisionMaker
from moleflow_pl.metrics.decisions import DECISION_COLUMNS, TARGET_RECALL
from moleflow_pl.metrics.good_images import GoodImages
from moleflow_pl.metrics.task_matrix import matrix_row, zero_shot
from moleflow_pl.metrics.task_scores import EvaluationOptions, MapUpsampling, TaskScores
from moleflow_pl.module import MoLEFlow
from moleflow_pl.report.decisions import decision_table
from moleflow_pl.report.facts import about, cost
from moleflow_pl.report.gallery import SuspectImage
from moleflow_pl.report.good_images import good_images_table, is_tested, next_commands
from moleflow_pl.report.not_evaluated import in_lines, not_evaluated
from moleflow_pl.report.summary import summarise, summary_table, write_report
from moleflow_pl.tasks.calibration import Calibration
from moleflow_pl.tasks.oracle_scores import OracleScores

logger = logging.getLogger(__name__)


class EvaluationCallback(Callback):
    """Evaluates after each task of a fit, and in `test`; writes `<run>/report`.

    Evaluation does not influence training: without it, the weights are the same.

    Args:
        evaluate_every_task: Evaluate after every task, not only after the last.
        map_size: Side of the square map that pixel metrics compare with the mask.
        blur_sigma: Standard deviation of the Gaussian blur on that map; 0 for none. Maps of
            `predict` and of exported files have no blur.
        upsampling: Interpolation from patch scores to that map: `nearest`, `bilinear`, `bicubic`,
            or `guided`: maps follow the image; with `blur_sigma` 0 they are those of `predict`.
        aupro_limit: False-positive rate up to which AUPRO integrates.
        evaluate_next_task: Also score each task just before it is learned, for forward transfer.
        target_recall: Recall for which the report gives the false-alarm rate.
    """

    def __init__(
        self,
        evaluate_every_task: bool = True,
        map_size: int = 256,
        blur_sigma: float = 4.0,
        upsampling: MapUpsampling = "bilinear",
        aupro_limit: float = 0.3,
        evaluate_next_task: bool = False,
        target_recall: float = TARGET_RECALL,
    ) -> None:
        require_number("target_recall", target_recall, 0, 1, above=True)
        self.evaluate_next_task = evaluate_next_task
        self.evaluate_every_task = evaluate_every_task
        self.options = EvaluationOptions(map_size, blur_sigma, aupro_limit, upsampling)
        self.target_recall = target_recall
        self._scores: dict[int, TaskScores] = {}
        self._maker: DecisionMaker | None = None  # while `test` runs

    def on_train_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Run an evaluation that an earlier command was stopped before."""
        self._evaluate_if_due(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Evaluate when a task has just been completed."""
        self._evaluate_if_due(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Log the results so far."""
        if is_trial(trainer):
            return
        tasks = [pl_module.schedule.tasks[i] for i in pl_module.schedule.learned]
        if tasks and tasks[-1].evaluation and trainer.is_global_zero:
            summary = summarise(tasks, cost(pl_module.inspector, len(tasks)))
            planned = len(pl_module.schedule.tasks)
            log_tables(summary, planned)
            if any(task.replaced for task in tasks):
                return  # an update, which ends with the next commands for the run that it changes
            run = run_of(trainer)
            commands = next_commands(run, tasks, is_tested(summary))
            for line in fit_ending(run, not_evaluated(tasks), commands):
                logger.info(line)

    def on_test_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Start without scores."""
        if trainer.is_global_zero and not is_trial(trainer):
            require_folder(run_of(trainer).report)
        self._scores, self._maker = {}, DecisionMaker(pl_module.schedule)
        pl_module.scores_are_taken = True

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, outputs: Mapping[str, Tensor],
        batch: Batch, batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Add the scores of a batch."""
        task = int(batch["task"][0])
        scores = self._scores.setdefault(task, TaskScores(task, self.options))
        assert self._maker is not None
        scores.update(batch, outputs, decisions(self._maker, outputs))

    def on_test_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Write the report and log its tables."""
        # a rank whose share of a task is empty has no entry for it
        tasks = sorted(set().union(*gather(list(self._scores))))
        scores = [self._scores.get(t, TaskScores(t, self.options)).gathered() for t in tasks]
        whole = takes_every_batch(trainer.num_test_batches, trainer.test_dataloaders)
        good_images = self._good_images_of_untested(trainer, pl_module)
        summary = self._report(trainer, pl_module, scores, whole, good_images)
        if trainer.is_global_zero:
            log_tables(summary)
            schedule = pl_module.schedule
            left_out = not_evaluated([schedule.tasks[i] for i in schedule.learned])
            place = f"report: {run_of(trainer).page}"
            unwritten = "only some of the test images were scored: no report was written"
            for line in [*in_lines(left_out), place if whole else unwritten]:
                logger.info(line)

    def _evaluate_if_due(self, trainer: Trainer, module: MoLEFlow) -> None:
        schedule = module.schedule
        task = schedule.at_boundary
        if task is None or schedule.tasks[task].evaluation is not None:
            return
        if not self.evaluate_every_task and schedule.current is not None:
            return
        scores = self._score(trainer, module, data_of(trainer).tasks_on_disk())
        good_images = self._good_images_of_untested(trainer, module)
        self._report(trainer, module, scores, good_images=good_images)
        known = module.inspector.router.tasks  # empty while the only product is learned again
        if self.evaluate_next_task and schedule.current is not None and known:
            (of_next,) = self._score(trainer, module, [schedule.current])
            row = schedule.tasks[task].evaluation
            if row is not None and of_next.rows:
                metrics = zero_shot(of_next) if trainer.is_global_zero else None
                row["zero_shot"] = trainer.strategy.broadcast(metrics)

    def _score(self, trainer: Trainer, module: MoLEFlow, tasks: Sequence[int]) -> list[TaskScores]:
        """Score the test images of some tasks, as `test` does."""
        result, maker = [], DecisionMaker(module.schedule)
        with scoring(trainer, module):
            for task in tasks:
                scores = TaskScores(task, self.options)
                loader = data_of(trainer).test_loader(task)
                title = f"test of {printable(module.schedule.tasks[task].name)}"
                images = len(loader.dataset)  # type: ignore[arg-type]
                with step(title, "test", images) as advance:
                    for index, batch in enumerate(loader):
                        output = module.test_step(batch, index)
                        scores.update(batch, output, decisions(maker, output))
                        advance(len(batch["path"]))
                result.append(scores.gathered())
        return result

    def _good_images_of_untested(self, trainer: Trainer, module: MoLEFlow) -> dict[int, GoodImages]:
        """Statistics of tasks with good images alone; the same on every rank."""
        data = data_of(trainer)
        tested = data.tasks_on_disk()
        tasks = [index for index in data.tasks_on_disk("train") if index not in tested]
        with scoring(trainer, module):
            return {task: evaluate_good_images(module, data, task) for task in tasks}

    def _look_at_suspects(self, trainer: Trainer, module: MoLEFlow) -> list[SuspectImage]:
        """Good images on disk with the highest scores."""
        data = data_of(trainer)
        with scoring(trainer, module):
            tasks = data.tasks_on_disk("train")
            return [image for task in tasks for image in look_at_suspects(module, data, task)]

    def _report(
        self,
        trainer: Trainer,
        module: MoLEFlow,
        scores: Sequence[TaskScores],
        whole: bool = True,
        good_images: Mapping[int, GoodImages] | None = None,
    ) -> dict[str, Any]:
        inspector, learned = module.inspector, module.schedule.learned
        tasks = [module.schedule.tasks[i] for i in learned]
        settings = {
            **asdict(self.options),
            "router": inspector.router.distance if inspector.routes else "none",
            "image_score": module.hparams["image_score"],
            "image_quantile": module.hparams["image_quantile"],
        }
        row = None
        if trainer.is_global_zero:
            calibrations = [task.calibration for task in tasks]
            row = matrix_row(
                scores, len(tasks), settings, calibrations, self.target_recall, good_images
            )
        tasks[-1].evaluation = trainer.strategy.broadcast(row)
        for task_scores in scores:
            if task_scores.rows:  # without rows, earlier scores stay
                oracle_scores = OracleScores.of(task_scores.rows)
                module.schedule.tasks[task_scores.task].oracle_scores = oracle_scores
        summary = summarise(tasks, cost(inspector, len(tasks)))
        if trainer.is_global_zero and whole and not is_trial(trainer):
            facts = about(inspector, len(tasks), module.seed, module.run_config)
            facts["next"] = next_commands(run_of(trainer), tasks)
            facts["left_out"] = not_evaluated(tasks)
            by_name = {task.name: task.calibration for task in tasks if task.calibration}
            suspects = self._look_at_suspects(trainer, module)
            write_files(run_of(trainer).report, summary, scores, facts, by_name, suspects)
            names = [task.name for task in tasks]
            log_gallery(trainer.loggers, scores, names, trainer.global_step)
        return summary


@contextmanager
def scoring(trainer: Trainer, module: MoLEFlow) -> Iterator[None]:
    """Within the block, a module scores images as in `test`; afterwards it trains as before."""
    training = module.training
    module.eval()
    with torch.inference_mode(), trainer.precision_plugin.test_step_context():
        yield
    module.train(training)


def log_tables(summary: Mapping[str, Any], planned: int | None = None) -> None:
    """Log the tables of an evaluation: metrics, decisions, and statistics of good images.

    Args:
        summary: The content of `summary.json`.
        planned: Tasks of the run, where some of them may not be learned yet.
    """
    good_images = good_images_table(summary)
    tables = [good_images]
    if is_tested(summary):
        tables = [summary_table(summary, planned), decision_table(summary), good_images]
    for table in tables:
        if table is not None:
            log_table(logger, table)


def decisions(maker: DecisionMaker, output: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Decisions about the images of a test batch, for `TaskScores.update`."""
    tasks, scores = output["routed_task"].cpu(), output["routed_score"].cpu()
    decided = maker.decisions(tasks, scores, output["novelty_distance"])
    rates = maker.alarm_rates(tasks, scores)
    rows = [decision | {"alarm_rate": r} for decision, r in zip(decided, rates, strict=True)]
    return [{key: row[key] for key in DECISION_COLUMNS if key in row} for row in rows]


def run_of(trainer: Trainer) -> RunFolder:
    """The run folder of a trainer."""
    return RunFolder(Path(trainer.default_root_dir))


def write_files(
    folder: Path,
    summary: Mapping[str, Any],
    scores: Sequence[TaskScores],
    facts: Mapping[str, Any],
    calibrations: Mapping[str, Calibration],
    suspects: Sequence[SuspectImage] = (),
) -> None:
    """Write the page and the tables of an evaluation into a folder."""
    # the drawing library is slow to import, and most commands draw nothing
    from moleflow_pl.report.page import render_page

    move_other_report_aside(folder, summary)
    write_text(folder / PAGE_FILE, render_page(summary, scores, facts, calibrations, suspects))
    write_report(folder, summary, scores)


def move_other_report_aside(folder: Path, summary: Mapping[str, Any]) -> None:
    """Move an earlier report aside if it has other tasks or settings than this one."""
    path = folder / SUMMARY_FILE
    if not path.is_file():
        return
    reason = "had other tasks or settings"
    try:
        old = read_json(path)
        tasks = old.get("tasks")
        continues = isinstance(tasks, list) and summary["tasks"][: len(tasks)] == tasks
        if continues and old.get("settings") == summary["settings"]:
            return
    except DataError as error:
        reason = f"cannot be used ({error})"
    aside = move_aside(folder)
    logger.info(f"the report in {folder} {reason}; it is now in {aside}")
