"""Lightning callbacks: when a task begins and ends, and what is written.

Each hook is a few lines that call plain functions of other modules. Add a callback in its own file;
the order matters, and `TaskSchedulerCallback` comes first. Modules not exported here are private.
"""

from moleflow_pl.callbacks.evaluation import EvaluationCallback
from moleflow_pl.callbacks.predictions import PredictionWriter
from moleflow_pl.callbacks.run_checkpoint import RunCheckpoint
from moleflow_pl.callbacks.task_scheduler import TaskSchedulerCallback
from moleflow_pl.callbacks.trainers import add_product, make_trainer

__all__ = [
    "EvaluationCallback",
    "PredictionWriter",
    "RunCheckpoint",
    "TaskSchedulerCallback",
    "add_product",
    "make_trainer",
]
