"""Kills its own process, as `kill -9` does, at one moment of a run.

Python imports this file as it starts, where its folder stands in PYTHONPATH. MOLEFLOW_KILL holds
JSON: `folder` and `only`, whose files count (those below the one with the other in their names),
`event`, the number of the open or rename that is waited for, and `delay`, the seconds after it.
With `log` instead, nothing is killed, and the names of all events are written there at the end.
"""

import atexit
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

EVENTS = ("open", "os.rename")


def watch(plan: dict) -> None:
    names: list[str] = []

    def hook(event: str, args: tuple) -> None:
        if event not in EVENTS or not isinstance(args[0], (str, os.PathLike)):
            return
        name = os.fspath(args[0])
        if isinstance(name, str) and plan["folder"] in name and plan["only"] in name:
            names.append(name)
            if len(names) == plan.get("event"):
                threading.Thread(target=die, args=(plan["delay"],), daemon=True).start()

    sys.addaudithook(hook)
    if "log" in plan:
        atexit.register(lambda: Path(plan["log"]).write_text("\n".join(names)))


def die(delay: float) -> None:
    time.sleep(delay)
    os.kill(os.getpid(), signal.SIGKILL)


if "MOLEFLOW_KILL" in os.environ:
    watch(json.loads(os.environ["MOLEFLOW_KILL"]))
