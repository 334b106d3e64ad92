"""`<run>/metrics.csv`."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.loggers import CSVLogger

from moleflow_pl._internal.files import writing


class RunCurves(CSVLogger):
    """Writes the curves to the run folder itself, and says so if it cannot."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, name="", version="")

    def save(self) -> None:
        """Append what was logged since the last time.

        Raises:
            OutputError: it cannot be written.
        """
        with writing(Path(self.log_dir) / "metrics.csv"):
            super().save()
