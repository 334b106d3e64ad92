"""The command line parsed, with nothing built."""

import pytest

from moleflow_pl.cli.lightning import MoLEFlowCLI, build


class Parsed(MoLEFlowCLI):
    """Parses, and stops before anything is built."""

    def instantiate_classes(self) -> None:
        self.subcommand = None


def parse(monkeypatch: pytest.MonkeyPatch, *args: str) -> Parsed:
    """What LightningCLI makes of a command line."""
    monkeypatch.setattr("sys.argv", ["moleflow"])  # LightningCLI warns of arguments there
    parsed = build(list(args), Parsed)
    assert isinstance(parsed, Parsed)
    return parsed
