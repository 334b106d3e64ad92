"""Scripts that measure the project's figures: `python -m benchmarks.NAME --help`.

`harness/` holds what scripts share; no script imports another. `literal.py` is the literal
implementation of the method, the reference of tests and timings.
"""
