"""Let torch's threads give way to other processes while they wait for each other.

The threads of an operation meet at its end. By default, GNU's OpenMP has one that waits turn for a
millisecond or more before it sleeps. Of two processes on the same cores, each then waits for a
thread that the turning of the other keeps from running, and both take many times as long.
"""

from __future__ import annotations

import os

VARIABLE, TURNS = "GOMP_SPINCOUNT", "10000"  # long enough for the threads of one process


def wait_briefly() -> None:
    """Let waiting threads soon sleep, in this process and in those it starts.

    Has an effect before torch is imported. What the environment sets stays as it is.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault(VARIABLE, TURNS)
