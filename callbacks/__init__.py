"""Lightning callbacks of MoLE-Flow: when a task begins and ends, and what is written."""

from callbacks.evaluation import EvaluationCallback
from callbacks.predictions import PredictionWriter
from callbacks.run_checkpoint import RunCheckpoint
from callbacks.task_scheduler import TaskSchedulerCallback

__all__ = ["EvaluationCallback", "PredictionWriter", "RunCheckpoint", "TaskSchedulerCallback"]
