"""Lightning callbacks of MoLE-Flow: when a task begins and ends, and what is written."""

from moleflow_pl.callbacks.evaluation import EvaluationCallback
from moleflow_pl.callbacks.predictions import PredictionWriter
from moleflow_pl.callbacks.run_checkpoint import RunCheckpoint
from moleflow_pl.callbacks.task_scheduler import TaskSchedulerCallback

__all__ = ["EvaluationCallback", "PredictionWriter", "RunCheckpoint", "TaskSchedulerCallback"]
