"""Recurrent layers, and the network that turns a batch of windows into distributions."""

from holdfast.networks.anchors import Anchor, anchor_forecasts, candidate_anchors
from holdfast.networks.blending import ERROR_LEVELS, MIXED, Blend, Others, random_walk
from holdfast.networks.cells import CELLS, GRU, LSTM, RNN, make_cell
from holdfast.networks.constraint import Constraint, constrain_recurrent_
from holdfast.networks.forecaster import ForecastNetwork, NetworkConfig, Standardise, batch_loss, normalise
from holdfast.networks.heads import (
    HEADS,
    GaussianHead,
    Head,
    HeadParameters,
    NegativeBinomialHead,
    QuantileHead,
    SigmoidHead,
    StudentTHead,
    Target,
    make_head,
)
from holdfast.networks.init import INITS, check_init, init_recurrent_
from holdfast.networks.linear import ridge
from holdfast.networks.quantiles import probabilities_of
from holdfast.networks.scaling import WindowScale, masked_mean, window_scale
from holdfast.networks.widening import SIZES, Widening

__all__ = [
    "CELLS",
    "ERROR_LEVELS",
    "GRU",
    "HEADS",
    "INITS",
    "LSTM",
    "MIXED",
    "RNN",
    "SIZES",
    "Anchor",
    "Blend",
    "Constraint",
    "ForecastNetwork",
    "GaussianHead",
    "Head",
    "HeadParameters",
    "NegativeBinomialHead",
    "NetworkConfig",
    "Others",
    "QuantileHead",
    "SigmoidHead",
    "Standardise",
    "StudentTHead",
    "Target",
    "Widening",
    "WindowScale",
    "anchor_forecasts",
    "batch_loss",
    "candidate_anchors",
    "check_init",
    "constrain_recurrent_",
    "init_recurrent_",
    "make_cell",
    "make_head",
    "masked_mean",
    "normalise",
    "probabilities_of",
    "random_walk",
    "ridge",
    "window_scale",
]
