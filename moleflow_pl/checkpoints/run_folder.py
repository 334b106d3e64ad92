"""Every path of a run, in one place."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from moleflow_pl._internal.files import is_partial, require_folder, write_text, writing
from moleflow_pl._internal.result_names import PAGE_FILE, SUMMARY_FILE

logger = logging.getLogger(__name__)

LAST = "last.ckpt"
TASKS, UPDATES = "tasks", "updates"
LOCK = ".lock"  # files of the command that writes to a folder, see `run_lock`
HOLDER = ".writer.json"


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run; properties neither read nor create anything.

    Attributes:
        root: The folder itself, `trainer.default_root_dir`.

    Example:
        >>> run = RunFolder.of(Path("runs/demo/tasks/00-a.ckpt"))
        >>> run == RunFolder.of(Path("runs/demo/last.ckpt")) == RunFolder(Path("runs/demo"))
        True
    """

    root: Path

    @classmethod
    def of(cls, checkpoint: Path) -> RunFolder:
        """The run that a checkpoint lies in."""
        folder = checkpoint.parent
        return cls(folder.parent if folder.name == TASKS else folder)

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.root / LAST

    @property
    def tasks(self) -> Path:
        """Folder of the checkpoints written at the end of each task."""
        return self.root / TASKS

    def task_checkpoint(self, index: int, name: str) -> Path:
        """Checkpoint written at the end of one task."""
        return self.tasks / f"{index:02d}-{name}.ckpt"

    @property
    def written_tasks(self) -> list[Path]:
        """The checkpoints of tasks that are there, in their order."""
        # os.path: a name that is too long for the disk is not there either
        return sorted(self.tasks.glob("*.ckpt")) if os.path.isdir(self.tasks) else []

    @property
    def config(self) -> Path:
        """All arguments of the fit, resolved."""
        return self.root / "config.yaml"

    @property
    def curves(self) -> Path:
        """Curves of the fit."""
        return self.root / "metrics.csv"

    @property
    def features(self) -> Path:
        """Feature files of the task that is being learned."""
        return self.root / "features"

    @property
    def report(self) -> Path:
        """Folder of the evaluation's files."""
        return self.root / "report"

    @property
    def page(self) -> Path:
        """The report page."""
        return self.report / PAGE_FILE

    @property
    def summary(self) -> Path:
        """The evaluation as JSON."""
        return self.report / SUMMARY_FILE

    @property
    def predictions(self) -> Path:
        """Folder of predictions."""
        return self.root / "predictions"

    @property
    def experts(self) -> Path:
        """Folder of exported experts."""
        return self.root / "experts"

    @property
    def versions(self) -> Path:
        """Folder of earlier versions of experts; a product named `b~1` is none of `b`."""
        return self.experts / "versions"

    def expert(self, name: str, version: int | None = None) -> Path:
        """File of an exported expert, or of one of its earlier versions."""
        if version is None:
            return self.experts / f"{name}.safetensors"
        return self.versions / f"{name}~{version}.safetensors"

    def update(self, name: str, version: int) -> RunFolder:
        """The run that learns a product again."""
        return RunFolder(self.root / UPDATES / f"{name}~{version}")

    @property
    def updated(self) -> RunFolder:
        """The run that an update in this folder changes; without an update, this run.

        Example:
            >>> run = RunFolder(Path("runs/demo"))
            >>> run.update("a", 1).updated == run.updated == run
            True
        """
        folder = self.root.parent
        is_update = folder.name == UPDATES and "~" in self.root.name
        return RunFolder(folder.parent) if is_update else self

    @property
    def export(self) -> Path:
        """Folder of exported models."""
        return self.root / "export"

    @property
    def service(self) -> Path:
        """Folder of the service: its database and its images."""
        return self.root / "service"

    @property
    def holds_run(self) -> bool:
        """Whether a fit has begun here."""
        return self.config.exists() or self.last.exists()

    @property
    def conflicts(self) -> list[str]:
        """Names of what a fit would overwrite or mix with its own files.

        Stored features never are: a hash names them, and only files of that form are removed.
        """
        named = (self.curves, self.tasks, self.report)
        return [path.name for path in named if path.exists() and not is_unused(path)]

    def check_folders(self) -> None:
        """Check before a fit begins that its folders can be created.

        Raises:
            OutputError: a file is in the place of a folder.
        """
        for folder in (self.tasks, self.report, self.features):
            require_folder(folder)

    def move_curves_aside(self) -> None:
        """Move the curves aside, so that a resumed run starts a new file."""
        if self.curves.exists():
            move_aside(self.curves)

    def check_writable(self) -> None:
        """Check before a fit begins that files can be written to the folder.

        Raises:
            OutputError: files cannot be written.
        """
        self.check_folders()
        probe = self.root / ".writable"
        if os.path.lexists(probe):  # someone else's
            probe = free_name(probe)
        write_text(probe, "x")
        probe.unlink()


def is_unused(path: Path) -> bool:
    """Whether a path is a folder that is empty but for temporary files of a killed command."""
    return path.is_dir() and all(map(is_partial, path.iterdir()))


def free_name(path: Path) -> Path:
    """The first of `name~1`, `name~2`, … that is free; a file's suffix stays at the end."""
    stem, suffix = (path.name, "") if path.is_dir() else (path.stem, path.suffix)
    number = 1
    while (other := path.with_name(f"{stem}~{number}{suffix}")).exists():
        number += 1
    return other


def move_aside(path: Path) -> Path:
    """Rename a file or folder to the first free name, so that its own name can be used again.

    Of a locked folder the contents move, and the folder stays with its lock files.

    Returns:
        Its new path.

    Raises:
        OutputError: the file or folder cannot be renamed.
    """
    aside = free_name(path)
    with writing(aside):
        if not (path / HOLDER).exists():
            path.rename(aside)
            return aside
        aside.mkdir()
        for entry in path.iterdir():
            if entry.name not in (LOCK, HOLDER):
                entry.rename(aside / entry.name)
    return aside
