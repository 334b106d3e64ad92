"""The callbacks of `moleflow_pl`, importable as `callbacks` in a checkout."""

from moleflow_pl.callbacks import (
    EvaluationCallback,
    PredictionWriter,
    RunCheckpoint,
    TaskSchedulerCallback,
    add_product,
    make_trainer,
)

__all__ = [
    "EvaluationCallback",
    "PredictionWriter",
    "RunCheckpoint",
    "TaskSchedulerCallback",
    "add_product",
    "make_trainer",
]
