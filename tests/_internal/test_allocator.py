import json
import os
import subprocess
import sys

import pytest

from moleflow_pl._internal.allocator import ENVIRONMENT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="parameters of glibc")

# page faults of blocks of 16 MiB that are freed and allocated again, in a thread and out of it
CODE = """
import json, os, resource, threading
import numpy as np
from moleflow_pl._internal.allocator import keep_freed_memory
if {kept}:
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        _ = [np.ones(2**21) for _ in range(6)]
        del _
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
found = []
def measure():
    faults()
    found.append(faults())
measure()
thread = threading.Thread(target=measure)
thread.start()
thread.join()
set_ones = {{name: os.environ.get(name) for name in {names}}}
print(json.dumps([found, set_ones]))
"""


def measured(kept: bool, **environment: str) -> tuple[list[int], dict[str, str | None]]:
    clean = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    code = CODE.format(kept=kept, names=sorted(ENVIRONMENT))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    found, names = json.loads(done.stdout)
    return found, names


def test_freed_blocks_are_found_again_without_page_faults_in_every_thread() -> None:
    kept, names = measured(True)
    fresh, _ = measured(False)
    assert max(kept) < min(fresh) / 10
    assert names == ENVIRONMENT  # for processes that this one starts


def test_a_parameter_of_the_user_stays() -> None:
    _, names = measured(True, MALLOC_ARENA_MAX="4")
    assert names == {**ENVIRONMENT, "MALLOC_ARENA_MAX": "4"}
