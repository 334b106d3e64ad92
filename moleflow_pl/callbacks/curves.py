"""Training curves in `<run>/metrics.csv`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger

from moleflow_pl._internal.files import writing
from moleflow_pl._internal.lightning_compat import in_utf8
from moleflow_pl.checkpoints.run_folder import RunFolder


class RunCurves(CSVLogger):
    """Writes the curves to the run folder itself; a failure is an `OutputError`."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, name="", version="")

    @property
    def experiment(self) -> Any:
        """The writer of the file, which uses UTF-8 on every system."""
        return in_utf8(super().experiment)

    def save(self) -> None:
        """Append what was logged since the last call.

        Raises:
            OutputError: the file cannot be written.
        """
        with writing(RunFolder(Path(self.log_dir)).curves):
            super().save()
