"""Training curves in `<run>/metrics.csv`."""

from __future__ import annotations

import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from moleflow_pl._internal.files import writing
from moleflow_pl._internal.lightning_compat import in_utf8
from moleflow_pl.checkpoints.run_folder import RunFolder


class RunCurves(CSVLogger):
    """Writes the curves to the run folder itself; a failure is an `OutputError`.

    The first values begin the file, and curves of an earlier fit are moved aside. So a test leaves
    the curves of its fit alone.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, name="", version="")
        self._writer: Any = None

    @property
    def experiment(self) -> Any:
        """The writer of the file; None before the first values."""
        return self._writer

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Add values to the curves."""
        self._begin()
        super().log_metrics(metrics, step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None) -> None:
        """Write the hyperparameters of a model that asks for it to `hparams.yaml`."""
        self._begin()
        super().log_hyperparams(params)

    def save(self) -> None:
        """Append what was logged since the last call.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._writer is not None:
            with writing(RunFolder(Path(self.log_dir)).curves):
                super().save()

    def _begin(self) -> None:
        """Begin the file, which uses UTF-8 on every system."""
        if self._writer is None:
            RunFolder(Path(self.log_dir)).move_curves_aside()
            with warnings.catch_warnings():
                # that it deletes what is in the folder: nothing is left to delete
                warnings.simplefilter("ignore")
                self._writer = in_utf8(super().experiment)
