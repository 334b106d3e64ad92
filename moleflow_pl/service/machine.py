"""The machine of a process, for services that share a database."""

from __future__ import annotations

import os
import socket

NAME = "MOLEFLOW_MACHINE"  # variable that names it, where host names change, as in containers


def this_machine() -> str:
    """The name of this machine."""
    return "-".join((os.environ.get(NAME) or socket.gethostname()).split())
