import os
import re
import subprocess
import sys

import pytest

from moleflow_pl._internal.openmp import TURNS, VARIABLE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP")

CODE = "from moleflow_pl._internal.openmp import wait_briefly; wait_briefly(); import torch"


def turns(**environment: str) -> int:
    """How often a waiting thread of torch turns in a new process, as OpenMP tells itself."""
    names = (VARIABLE, "OMP_WAIT_POLICY")
    clean = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**clean, "OMP_DISPLAY_ENV": "verbose", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    (found,) = re.findall(rf"{VARIABLE} = '(\d+)'", done.stderr)
    return int(found)


def test_threads_that_wait_soon_sleep() -> None:
    assert turns() == int(TURNS)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({VARIABLE: "7"}, 7), ({"OMP_WAIT_POLICY": "passive"}, 0)],
)
def test_what_the_user_sets_stays(environment: dict[str, str], expected: int) -> None:
    assert turns(**environment) == expected
