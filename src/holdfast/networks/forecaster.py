"""The network: segments of the context through recurrent layers, a mixture of anchors and a correction out.

Shapes: B windows, T context steps, F horizon steps, S steps per segment, G = T / S segments, J decoded segments,
D steps per decoded segment, N hidden units, A anchors, P raw outputs per step, K known features, C covariates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.networks.anchors import Anchor, anchor_forecasts, fold
from holdfast.networks.blending import Blend
from holdfast.networks.cells import make_cell
from holdfast.networks.constraint import constrain_recurrent_
from holdfast.networks.heads import Head, HeadParameters, Target
from holdfast.networks.init import init_recurrent_, zero_
from holdfast.networks.scaling import WindowScale, masked_mean, window_scale
from holdfast.networks.widening import Widening
from holdfast.windows import Batch

SMALLEST_UNIT = 1e-3  # of the window's spread: a window that repeats itself exactly still gets intervals
SMALLEST_DEVIATION = 1e-6  # of a covariate's mean: single precision carries 7 digits
SILENT = 1e30  # a deviation that leaves nothing of a covariate
LARGEST_Z = 10.0  # of the window features: farther out, an outlier is an outlier


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Everything that fixes the shapes of a network; plain numbers, so that a manifest can hold it.

    Attributes:
        horizon: F, steps to forecast.
        context_length: T, steps fed; a multiple of `segment`.
        segment: S, steps fed as one recurrent step.
        seasons: Season lengths in steps; the first sets the unit of corrections, the longest the window's level.
        anchors: The naive forecasts to start from (see `candidate_anchors`).
        cell: One of `CELLS`.
        init: How the recurrent weights start, see `init_recurrent_`; `chrono` alone: up to the steps of the context.
        constraint: What the recurrent matrices are held to, see `constrain_recurrent_`.
        hidden_size: N.
        num_layers: Recurrent layers.
        dropout: Share of hidden values dropped while training.
        past_size: Number of past covariates.
        known_size: Number of future covariates and calendar features.
        static_size: Number of static features.
        best_naive: Season of the naive forecast to beat, the best one on the validation windows; None: `naive_season`.

    Example:
        >>> NetworkConfig(horizon=48, context_length=336, segment=24, seasons=(24, 168)).cell
        'lstm'
    """

    horizon: int
    context_length: int
    segment: int = 1
    seasons: tuple[int, ...] = ()
    anchors: tuple[Anchor, ...] = (("last", 1),)
    cell: str = "lstm"
    init: str = "orthogonal"
    constraint: str = "none"
    hidden_size: int = 128
    num_layers: int = 2
    dropout: float = 0.0
    past_size: int = 0
    known_size: int = 0
    static_size: int = 0
    best_naive: int | None = None

    @property
    def naive_season(self) -> int:
        """Season of the seasonal naive forecast whose error is the unit; 1, the last value, without one."""
        return self.seasons[0] if self.seasons else 1

    @property
    def baseline_season(self) -> int:
        """Season of the naive forecast that skill is measured against."""
        return self.naive_season if self.best_naive is None else self.best_naive


class Standardise(nn.Module):
    """(x - mean) / deviation per column, with the columns' figures kept beside the weights.

    Example:
        >>> standardise = Standardise(1)
        >>> standardise.learn(torch.tensor([[1.0], [3.0], [torch.nan]]))
        >>> standardise(torch.tensor([[5.0], [torch.nan]])).tolist()
        [[3.0], [0.0]]
    """

    mean_C: Tensor
    deviation_C: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean_C", torch.zeros(size))
        self.register_buffer("deviation_C", torch.ones(size))

    def learn(self, rows_RC: Tensor, silent_C: Tensor | None = None) -> None:
        """Take the columns' means and deviations from rows; nan counts as missing.

        Args:
            rows_RC: Rows to learn from.
            silent_C: Columns that are to say nothing: 0 whatever comes.
        """
        known_RC = rows_RC[torch.isfinite(rows_RC).any(1)].double()
        if known_RC.numel():
            mean_C = known_RC.nanmean(0)
            deviation_C = (known_RC - mean_C).square().nanmean(0).sqrt()
            # below this share of the mean a deviation is rounding: dividing by it would blow up the first new value
            varies_C = deviation_C > SMALLEST_DEVIATION * mean_C.abs()
            self.mean_C.copy_(mean_C.nan_to_num(0.0))  # a column may have no value in these rows
            self.deviation_C.copy_(torch.where(varies_C, deviation_C, 1.0))
        if silent_C is not None:
            self.deviation_C.masked_fill_(silent_C, SILENT)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise the last dimension; what is missing (nan) becomes the mean, 0."""
        standard = (x - self.mean_C) / self.deviation_C
        return torch.where(torch.isnan(standard), 0.0, standard)


class ForecastNetwork(nn.Module):
    """A direct recurrent forecaster that starts as the mean of its anchors.

        x_g   = [z, mask, covariates of segment g, window features]            g = 1..G
        h     = recurrent layers over x_1..x_G, the newest state
        d_j   = gelu(U [h, known features of decoded segment j, static] + e_j)     j = 1..J
        w, r  = softmax, raw outputs of V d_j + c                            V = c = 0 at the start
        mix_k = sum_a w_ja anchor_ka, and the head turns (mix, r) into a distribution

    Every decoded segment reads the newest state, so every forecast step sees the newest observation. Segments and
    parallel decoding as in SegRNN (Lin et al. 2023, arXiv:2308.11200); z is the window-normalised context.

    Args:
        config: Shapes.
        head: The distribution.
        seed: Of the initial weights; the global random state is left alone.

    Example:
        >>> from holdfast.networks import ForecastNetwork, NetworkConfig, QuantileHead
        >>> from holdfast.windows import Windows
        >>> windows = Windows.from_arrays([1.0, 2.0, 3.0] * 4, offsets=[0, 12], lengths=[9])
        >>> batch = windows.gather([0], [9], context_length=9, horizon=3)
        >>> config = NetworkConfig(horizon=3, context_length=9, segment=3, anchors=(("last", 1), ("season", 3)))
        >>> network = ForecastNetwork(config, QuantileHead((80.0,)))
        >>> network.head.point(network(batch)).tolist()  # the mean of 3, 3, 3 and 1, 2, 3
        [[2.0, 2.5, 3.0]]
    """

    # What a parameter is, beyond what its module type says: only `output` is the head.
    ROLES: ClassVar[dict[str, Literal["other"]]] = {"hidden": "other", "position_JN": "other"}

    linear_TF: Tensor | None

    def __init__(self, config: NetworkConfig, head: Head, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.head = head
        size, segment = config.hidden_size, config.segment
        self.decoded_length = min(segment, config.horizon)
        self.decoded_segments = -(-config.horizon // self.decoded_length)
        window_size = len({1, *config.seasons}) + 2
        per_step = 2 + config.past_size + config.known_size
        decoder_size = size + self.decoded_length * config.known_size + config.static_size
        self.widening, self.blend = Widening(), Blend(config.horizon)
        self.past = Standardise(config.past_size)
        self.known = Standardise(config.known_size)
        self.static = Standardise(config.static_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            input_size = segment * per_step + window_size + config.static_size
            self.recurrent = make_cell(config.cell, input_size, size, config.num_layers, config.dropout)
            if config.init != "orthogonal":  # the layers' own start
                steps = max(config.context_length // segment, 3)
                init = f"chrono:{steps}" if config.init == "chrono" else config.init
                init_recurrent_(self.recurrent, scheme=init)
            constrain_recurrent_(self.recurrent, config.constraint)
            self.hidden = nn.Linear(decoder_size, size)
            self.position_JN = nn.Parameter(0.1 * torch.randn(self.decoded_segments, size))
            self.anchor_size = len(config.anchors)
            self.output = nn.Linear(size, self.anchor_size + self.decoded_length * head.raw_size)
        zero_(self.output)
        linear = any(kind == "linear" for kind, _ in config.anchors)
        self.register_buffer("linear_TF", torch.zeros(config.context_length, config.horizon) if linear else None)

    def encode(self, z_BT: Tensor, batch: Batch, window_BW: Tensor) -> Tensor:
        """The newest hidden state [B, N] after the whole context."""
        segment = self.config.segment
        steps_BTC = torch.cat(
            [z_BT[..., None], batch.mask_BT[..., None].float(), self.past(batch.past_BTP), self.known(batch.known_BTK)],
            -1,
        )
        segments_BGC = steps_BTC.reshape(len(z_BT), -1, segment * steps_BTC.shape[-1])
        constant_BC = torch.cat([window_BW, self.static(batch.static_BS)], -1)
        repeated_BGC = constant_BC[:, None].expand(-1, segments_BGC.shape[1], -1)
        h_BGN, _ = self.recurrent(torch.cat([segments_BGC, repeated_BGC], -1))
        newest_BN: Tensor = h_BGN[:, -1]
        return newest_BN

    def decode(self, h_BN: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Anchor weights [B, F, A] and raw outputs [B, F, P]."""
        count, length, horizon = self.decoded_segments, self.decoded_length, self.config.horizon
        known_BFK = F.pad(self.known(batch.known_BFK), (0, 0, 0, count * length - horizon))
        known_BJC = known_BFK.reshape(len(h_BN), count, -1)
        constant_BC = torch.cat([F.dropout(h_BN, self.config.dropout, self.training), self.static(batch.static_BS)], -1)
        d_BJC = torch.cat([constant_BC[:, None].expand(-1, count, -1), known_BJC], -1)
        out_BJC = self.output(F.gelu(self.hidden(d_BJC) + self.position_JN))
        weights_BJA = out_BJC[..., : self.anchor_size].softmax(-1)
        raw_BFP = out_BJC[..., self.anchor_size :].reshape(len(h_BN), count * length, -1)[:, :horizon]
        return weights_BJA.repeat_interleave(length, 1)[:, :horizon], raw_BFP

    def forward(self, batch: Batch) -> HeadParameters:
        """Distribution of every horizon step."""
        z_BT, unit_B, scale = normalise(batch, self.config.seasons)
        window_BW = window_features(scale, batch, self.config.seasons)
        weights_BFA, raw_BFP = self.decode(self.encode(z_BT, batch, window_BW), batch)
        anchors_BFA = anchor_forecasts(z_BT, batch.mask_BT, self.config.anchors, self.config.horizon, self.linear_TF)
        mix_BF = (weights_BFA * anchors_BFA).sum(-1)
        return self.head.parameters(mix_BF, unit_B, raw_BFP, scale)


def normalise(batch: Batch, seasons: Sequence[int]) -> tuple[Tensor, Tensor, WindowScale]:
    """Contexts in their own level and spread, and the unit of corrections.

    Args:
        batch: B windows; level, spread and unit are those of the rows that end with the newest observed one.
        seasons: Season lengths in steps; the first is that of the unit, the longest that of the level.

    Returns:
        z_BT (0 where missing), the unit of each window in units of z, and how to come back.

    Example:
        >>> from holdfast.windows import Windows
        >>> batch = Windows.from_arrays([0.0, 4.0, 0.0, 8.0], [0, 4], [4]).gather([0], [4], context_length=4, horizon=0)
        >>> z_BT, unit_B, scale = normalise(batch, (2,))
        >>> scale.loc_B.item(), round((unit_B * scale.scale_B).item(), 6)
        (4.0, 2.0)
    """
    scale = window_scale(batch.recent_BT, batch.recent_mask_BT, recent=max(seasons, default=batch.y_BT.shape[1]))
    z_BT = scale.normalise(batch.y_BT).masked_fill(~batch.mask_BT, 0.0)
    unit_B = naive_error(*_recent(scale, batch), seasons[0] if seasons else 1).clamp(min=SMALLEST_UNIT)
    return z_BT, unit_B, scale


def window_features(scale: WindowScale, batch: Batch, seasons: Sequence[int]) -> Tensor:
    """What tells windows apart and does not depend on their level and units [B, W].

    The logarithms of the naive errors at lag 1 and at each season, in units of z, then the smallest and the largest z:
    how rough a window is, how well it repeats itself, and how far its floor and its ceiling are.

    Args:
        scale: Level and spread of the windows.
        batch: B windows.
        seasons: Season lengths in steps.

    Example:
        >>> from holdfast.windows import Windows
        >>> batch = Windows.from_arrays([0.0, 4.0, 0.0, 8.0], [0, 4], [4]).gather([0], [4], context_length=4, horizon=0)
        >>> [round(value, 3) for value in window_features(normalise(batch, (2,))[2], batch, (2,))[0].tolist()]
        [0.575, -0.405, -1.333, 1.333]
    """
    z_BT, mask_BT = _recent(scale, batch)
    errors = [naive_error(z_BT, mask_BT, lag).clamp(min=SMALLEST_UNIT).log() for lag in dict.fromkeys((1, *seasons))]
    return torch.stack([*errors, z_BT.amin(1).clamp(min=-LARGEST_Z), z_BT.amax(1).clamp(max=LARGEST_Z)], -1)


def _recent(scale: WindowScale, batch: Batch) -> tuple[Tensor, Tensor]:
    """The rows up to the newest observed one, normalised, and where they were observed."""
    return scale.normalise(batch.recent_BT).masked_fill(~batch.recent_mask_BT, 0.0), batch.recent_mask_BT


def naive_error(z_BT: Tensor, mask_BT: Tensor, season: int) -> Tensor:
    """Mean absolute error of the seasonal naive forecast inside the context; 1 where the context holds no such pair.

    Example:
        >>> naive_error(torch.tensor([[1.0, 2.0, 2.0, 4.0]]), torch.ones(1, 4, dtype=torch.bool), 2).tolist()
        [1.5]
    """
    z_BKm, mask_BKm = fold(z_BT, season), fold(mask_BT, season)
    pair_BKm = mask_BKm[:, 1:] & mask_BKm[:, :-1]
    error_B = masked_mean((z_BKm[:, 1:] - z_BKm[:, :-1]).abs().flatten(1), pair_BKm.flatten(1))
    return torch.where(pair_BKm.flatten(1).any(1), error_B, 1.0)


def batch_loss(head: Head, parameters: HeadParameters, batch: Batch, error_scale_B: Tensor) -> Tensor:
    """Mean loss over the observed targets of a batch; nan where there is none.

    Example:
        >>> from holdfast.networks import QuantileHead
        >>> from holdfast.windows import Windows
        >>> batch = Windows.from_arrays([4.0, 4.0, 6.0], [0, 3], [3]).gather([0], [2], context_length=2, horizon=1)
        >>> network = ForecastNetwork(NetworkConfig(horizon=1, context_length=2), QuantileHead((80.0,)))
        >>> scale_B = torch.tensor([2.0])
        >>> round(batch_loss(network.head, network(batch), batch, scale_B).item(), 2)  # 1 of the median, 1 of all three
        2.0
    """
    loss_BF = head.loss(parameters, Target(batch.target_BF, error_scale_B))
    return loss_BF[batch.target_mask_BF].mean()
