"""The arguments of a command, parsed and not acted upon."""

from unittest.mock import patch

import moleflow_pl.cli.lightning as cli


class Parsed(cli.MoLEFlowCLI):
    """Parses, and stops before anything is built."""

    def instantiate_classes(self) -> None:
        self.subcommand = None


def parse(*args: str) -> cli.MoLEFlowCLI:
    """What a command of these arguments would do."""
    with patch("sys.argv", ["moleflow"]):
        return cli.build(list(args), Parsed)
