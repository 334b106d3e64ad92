"""The callbacks of `moleflow_pl`, importable as `callbacks` in a checkout."""

from moleflow_pl.callbacks import (
    EvaluationCallback,
    PredictionWriter,
    RunCheckpoint,
    TaskSchedulerCallback,
)

__all__ = ["EvaluationCallback", "PredictionWriter", "RunCheckpoint", "TaskSchedulerCallback"]
