"""The training loop, its schedules, state and callbacks."""

from lowerbound.training.allocator import keep_memory
from lowerbound.training.callbacks import metrics_file, progress_bar
from lowerbound.training.cursor import Cursor, in_order
from lowerbound.training.finish import Finish
from lowerbound.training.loop import evaluate, train
from lowerbound.training.procedure import (
    OF_ROWS,
    Callback,
    EndsEpochs,
    Event,
    History,
    Metrics,
    Procedure,
    Record,
    Scalars,
    TooLarge,
)
from lowerbound.training.schedules import Constant, Cosine, Cyclic, Schedule, WarmUp, as_schedule
from lowerbound.training.state import State

__all__ = [
    "OF_ROWS",
    "Callback",
    "Constant",
    "Cosine",
    "Cursor",
    "Cyclic",
    "EndsEpochs",
    "Event",
    "Finish",
    "History",
    "Metrics",
    "Procedure",
    "Record",
    "Scalars",
    "Schedule",
    "State",
    "TooLarge",
    "WarmUp",
    "as_schedule",
    "evaluate",
    "in_order",
    "keep_memory",
    "metrics_file",
    "progress_bar",
    "train",
]
