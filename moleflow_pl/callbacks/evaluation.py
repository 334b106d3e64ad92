"""Scores every learned task's test images, and writes the report."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from torch import Tensor
from tqdm.auto import tqdm

from moleflow_pl._internal.distributed import gather
from moleflow_pl._internal.files import write_text
from moleflow_pl._internal.provenance import hardware, versions
from moleflow_pl.checkpoints.io import UNSAID
from moleflow_pl.checkpoints.run_folder import RunFolder, move_aside
from moleflow_pl.metrics.task_matrix import matrix_row, zero_shot
from moleflow_pl.metrics.task_scores import EvaluationOptions, TaskScores
from moleflow_pl.module import MoLEFlow
from moleflow_pl.report.summary import summarise, summary_table, write_report
from moleflow_pl.scoring.functional import Upsampling


class EvaluationCallback(Callback):
    """Evaluates after each task of a fit, and in `test`; writes `<run>/report`.

    Nothing of it flows back: the weights are the same with the evaluation switched off.

    Args:
        evaluate_every_task: Evaluate after every task, not after the last alone.
        map_size: Side of the square map that pixel metrics compare with the mask.
        blur_sigma: Standard deviation of the Gaussian blur on that map; 0 for none.
        upsampling: How patch scores become that map: `nearest`, `bilinear` or `bicubic`.
        aupro_limit: False-positive rate up to which AUPRO integrates.
        evaluate_next_task: Also score each task just before it is learned, for forward transfer.
    """

    def __init__(
        self,
        evaluate_every_task: bool = True,
        map_size: int = 256,
        blur_sigma: float = 4.0,
        upsampling: Upsampling = "bilinear",
        aupro_limit: float = 0.3,
        evaluate_next_task: bool = False,
    ) -> None:
        self.evaluate_next_task = evaluate_next_task
        self.evaluate_every_task = evaluate_every_task
        self.options = EvaluationOptions(map_size, blur_sigma, aupro_limit, upsampling)
        self._scores: dict[int, TaskScores] = {}

    def on_train_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Make up for an evaluation that a stop came before."""
        self._evaluate_if_due(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Evaluate when a task has just been completed."""
        self._evaluate_if_due(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Show where the run stands."""
        tasks = [pl_module.schedule.tasks[i] for i in pl_module.schedule.learned]
        if tasks and tasks[-1].evaluation and trainer.is_global_zero:
            summary = summarise(tasks, cost(pl_module, len(tasks)))
            show(summary, Path(trainer.default_root_dir))

    def on_test_start(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Begin with no scores."""
        self._scores = {}

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: MoLEFlow, outputs: Mapping[str, Tensor],
        batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        """Take in the scores of a batch."""
        task = int(batch["task"][0])
        scores = self._scores.setdefault(task, TaskScores(task, self.options))
        scores.update(batch, outputs)

    def on_test_end(self, trainer: Trainer, pl_module: MoLEFlow) -> None:  # type: ignore[override]
        """Write the report and show its table."""
        # a rank whose share of a task is empty has not heard of it
        tasks = sorted(set().union(*gather(list(self._scores))))
        scores = [self._scores.get(t, TaskScores(t, self.options)).gathered() for t in tasks]
        summary = self._report(trainer, pl_module, scores)
        if trainer.is_global_zero:
            show(summary, Path(trainer.default_root_dir))

    def _evaluate_if_due(self, trainer: Trainer, module: MoLEFlow) -> None:
        task = module.schedule.at_boundary
        if task is None or module.schedule.tasks[task].evaluation is not None:
            return
        if not self.evaluate_every_task and module.schedule.current is not None:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        learned = data.tasks_on_disk()
        self._report(trainer, module, self._run(trainer, module, learned))
        ahead = module.schedule.current
        if self.evaluate_next_task and ahead is not None:
            (scores,) = self._run(trainer, module, [ahead])
            row = module.schedule.tasks[task].evaluation
            if row is not None and scores.rows:
                made = zero_shot(scores) if trainer.is_global_zero else None
                row["zero_shot"] = trainer.strategy.broadcast(made)

    def _run(self, trainer: Trainer, module: MoLEFlow, tasks: Sequence[int]) -> list[TaskScores]:
        """Score the test images of some tasks, as `test` does."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        module.eval()
        result = []
        with torch.inference_mode(), trainer.precision_plugin.test_step_context():
            for task in tasks:
                scores = TaskScores(task, self.options)
                title = f"testing {module.schedule.tasks[task].name}"
                bar = tqdm(data.test_loader(task), desc=title, disable=not trainer.is_global_zero)
                for index, batch in enumerate(bar):
                    moved = module.transfer_batch_to_device(batch, module.device, 0)
                    scores.update(batch, module.test_step(moved, index))
                result.append(scores.gathered())
        module.train()
        return result

    def _report(
        self, trainer: Trainer, module: MoLEFlow, scores: Sequence[TaskScores]
    ) -> dict[str, Any]:
        learned = module.schedule.learned
        tasks = [module.schedule.tasks[i] for i in learned]
        settings = {
            **asdict(self.options),
            "router": module.router.distance if module.routes else "none",
            "image_score": module.hparams["image_score"],
            "image_quantile": module.hparams["image_quantile"],
        }
        row = matrix_row(scores, len(tasks), settings) if trainer.is_global_zero else None
        tasks[-1].evaluation = trainer.strategy.broadcast(row)
        summary = summarise(tasks, cost(module, len(tasks)))
        if trainer.is_global_zero:
            folder = RunFolder(Path(trainer.default_root_dir)).report
            keep_unlike(folder, summary)
            write_text(folder / "report.html", self._page(module, summary, scores))
            write_report(folder, summary, scores)
        return summary

    @staticmethod
    def _page(module: MoLEFlow, summary: Mapping[str, Any], scores: Sequence[TaskScores]) -> str:
        # the drawing library is slow to import, and most commands draw nothing
        from moleflow_pl.report.page import render_page

        return render_page(summary, scores, about(module, len(summary["tasks"])))


def cost(module: MoLEFlow, tasks: int) -> dict[str, Any]:
    """What the model costs: numbers stored once, numbers per task, memory at its peak.

    The shared part counts the trained base and the fixed rotations; the frozen backbone is not in
    it. The part of a task counts its expert and its prototype.
    """
    flow = module.flow
    shared = sum(p.numel() for p in flow.base_parameters())
    shared += sum(block.w_perm.numel() for block in flow.flow)
    return {
        "shared_parameters": shared,
        "parameters_per_task": [
            sum(p.numel() for p in flow.expert_parameters(task))
            + sum(
                buffer.numel()
                for router in (module.router, module.novelty)
                for buffer in router.prototypes[str(task)].buffers()
            )
            for task in range(tasks)
        ],
        "peak_memory_mb": peak_memory_mb(),
    }


def keep_unlike(folder: Path, summary: Mapping[str, Any]) -> None:
    """Move a report aside that fewer tasks do not continue, or that other settings made."""
    path = folder / "summary.json"
    if not path.is_file():
        return
    old = json.loads(path.read_text(encoding="utf-8"))
    grown = summary["tasks"][: len(old["tasks"])] == old["tasks"]
    if grown and UNSAID | old.get("settings", {}) == UNSAID | summary["settings"]:
        return
    aside = move_aside(folder)
    print(f"the report that was in {folder} is of other tasks or settings, and now in {aside}")


def about(module: MoLEFlow, tasks: int) -> dict[str, Any]:
    """What a report says of where its numbers come from."""
    backbone = module.extractor.fingerprint()
    facts = {
        "seed": str(module.seed),
        "backbone": f"{backbone['backbone']}, layers {backbone['layers']}, "
        f"images {backbone['image_size']}, weights {backbone['weights_sha256'][:12]}",
    }
    for task in module.schedule.tasks[:tasks]:
        facts[f"images of {task.name}"] = f"sha256 {task.split}"
    return {
        "facts": facts,
        "hardware": hardware(),
        "versions": versions(),
        "config": module.run_config,
    }


def peak_memory_mb() -> float | None:
    """Largest resident memory of this process so far, in MB; None where no one counts it."""
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def show(summary: Mapping[str, Any], run: Path) -> None:
    """Print the table and where the files are."""
    console = Console()
    console.print(summary_table(summary))
    console.print(f"report: {run / 'report' / 'summary.json'}", soft_wrap=True)
