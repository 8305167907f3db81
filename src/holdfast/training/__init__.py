"""From a network and series to trained weights."""

from holdfast.training.checkpoint import Progress, load_tensors, load_weights, save_tensors
from holdfast.training.flow import flow_notes
from holdfast.training.loop import make_guard, seeded, train
from holdfast.training.notes import fit_notes
from holdfast.training.penalty import Penalty, parse_penalty
from holdfast.training.replay import replay
from holdfast.training.schedule import learning_rate
from holdfast.training.split import Split, error_scales, split_series
from holdfast.training.step import train_step
from holdfast.training.task import PEAK_RATES, Task, TrainingConfig
from holdfast.training.validate import best_naive, validate

__all__ = [
    "PEAK_RATES",
    "Penalty",
    "Progress",
    "Split",
    "Task",
    "TrainingConfig",
    "best_naive",
    "error_scales",
    "fit_notes",
    "flow_notes",
    "learning_rate",
    "load_tensors",
    "load_weights",
    "make_guard",
    "parse_penalty",
    "replay",
    "save_tensors",
    "seeded",
    "split_series",
    "train",
    "train_step",
    "validate",
]
