"""The callbacks of `moleflow_pl`, importable as `callbacks` in a checkout."""

from moleflow_pl.callbacks import *  # noqa: F403
from moleflow_pl.callbacks import __all__ as __all__
