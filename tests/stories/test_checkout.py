"""A checkout that is not installed: its `callbacks` are those of the package."""

import json
import os
import subprocess
import sys

from moleflow_pl import callbacks
from tests.helpers.commands import ROOT

PROGRAM = """
import json, callbacks, moleflow_pl.callbacks as own
same = [name for name in own.__all__ if getattr(callbacks, name, None) is getattr(own, name)]
print(json.dumps([same, callbacks.__all__, callbacks.__file__]))
"""


def test_every_public_name_of_the_callbacks_is_importable_from_callbacks() -> None:
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=env, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    same, names, file = json.loads(result.stdout)
    assert same == sorted(names) == sorted(callbacks.__all__)
    assert file == str(ROOT / "callbacks" / "__init__.py")
