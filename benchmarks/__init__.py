"""Scripts that measure the project's figures: `python -m benchmarks.NAME --help`.

`harness/` holds what scripts share; no script imports another. `literal.py` is the literal
implementation of the method, the reference of tests and timings.
"""

from __future__ import annotations

from moleflow_pl._internal.openmp import wait_briefly

wait_briefly()  # as the command does
