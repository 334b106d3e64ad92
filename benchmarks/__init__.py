"""Measurements behind the project's figures, each a script: `python -m benchmarks.NAME --help`.

`harness/` holds what scripts share; a script imports no other script. `literal.py` is the method
written down literally, the reference of tests and timings.
"""
