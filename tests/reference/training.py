"""Training as the definitions say it: one series, one row, one parameter at a time, without a guard."""

from __future__ import annotations

import math

import torch
from tests.reference.anchors import bridged

from holdfast.networks import ForecastNetwork, Target, batch_loss


def cutoffs(length, context_length, horizon, n_usable):
    """Row `until` of one series, the cutoffs to train on, and those to validate from."""
    if length - horizon < 2:  # no row to see and row to learn from before the held-out ones
        return length, [], []
    wanted = math.ceil(256 / n_usable)  # windows that this series has to give
    held_out = max(horizon, min(3 * horizon, length // 5), length // 10 if wanted > 1 else 0)
    each, until = max(wanted, 3), length - held_out
    last = until - horizon if until > horizon else until - 1
    first = min(context_length, max(last // 2, 1))
    spare = length - horizon - until
    count = min(each, spare + 1)
    steps = [place * spare / (count - 1) if count > 1 else 0 for place in range(count)]
    return until, list(range(first, last + 1)), [until + round(step) for step in steps]


def error_scale(values, season):
    """Scale of MASE from the rows that may be used."""
    seen = [value for value in values if math.isfinite(value)] or [0.0]
    level = math.fsum(map(abs, seen)) / len(seen)
    middle = math.fsum(seen) / len(seen)
    spread = math.fsum(abs(value - middle) for value in seen) / len(seen)
    fallback = spread if spread > 1e-15 * level else level if level > 0 else 1.0
    errors = [abs(values[row] - values[row - season]) for row in range(season, len(values))]
    errors = [error for error in errors if math.isfinite(error)]
    error = sum(errors) / len(errors) if errors else 0.0
    return error if error > 1e-6 * fallback else fallback


def learning_rate(step, planned_steps, peak):
    """Warm-up times cosine."""
    cosine = 0.5 * math.cos(math.pi * (step - 1) / planned_steps) + 0.5
    warm_up = 50 if planned_steps >= 250 else planned_steps / 5 if planned_steps >= 5 else 1
    return peak * cosine if step >= warm_up else peak * cosine * step / warm_up


def average(states):
    """The weighted sum that the running average of these states is, written out; the first is the untrained one."""
    decays = [min(0.99, (1 + step) / (10 + step)) for step in range(1, len(states))]
    shares = [math.prod(decays)]
    shares += [(1 - decay) * math.prod(decays[place + 1 :]) for place, decay in enumerate(decays)]
    return {name: sum(share * state[name] for share, state in zip(shares, states, strict=True)) for name in states[0]}


def norm(parameters):
    """Norm of all gradients, number by number."""
    return math.sqrt(math.fsum(value**2 for p in parameters for value in p.grad.double().flatten().tolist()))


def step_by_hand(network, batch, error_scale_B, optimizer, max_norm, penalty=lambda: 0.0):
    """One step in plain torch that clips all gradients by one norm; loss, norm before and clipping factor."""
    optimizer.zero_grad()
    loss = batch_loss(network.head, network(batch), batch, error_scale_B)
    (loss + penalty()).backward()
    total = norm(network.parameters())
    coef = min(1.0, max_norm / total)
    for parameter in network.parameters():
        parameter.grad *= coef
    optimizer.step()
    return loss.item(), total, coef


def validation(network: ForecastNetwork, windows, series_and_cutoffs, error_scale_n, season):
    """Mean loss, scaled error and scaled seasonal naive error, one series and one step at a time."""
    config = network.config
    losses, errors, naive_errors = [], [], []
    network.eval()
    for series, cutoff in series_and_cutoffs:
        batch = windows.gather([series], [cutoff], context_length=config.context_length, horizon=config.horizon)
        scale = error_scale_n[series].item()
        with torch.no_grad():
            parameters = network(batch)
            loss_F = network.head.loss(parameters, Target(batch.target_BF, error_scale_n[series : series + 1]))[0]
            point_F = network.head.point(parameters)[0]
        start = int(windows.start_n[series])
        history = [windows.y_R[start + row].item() for row in range(cutoff)]
        filled = bridged([None if math.isnan(value) else value for value in history], windows.seasons)
        past = [math.nan if value is None else value for value in filled[-config.context_length :]]
        for k in range(config.horizon):
            target = windows.y_R[start + cutoff + k].item()
            if not math.isfinite(target) or all(math.isnan(value) for value in past):
                continue
            same_phase = [past[row] for row in range(len(past)) if (len(past) + k - row) % season == 0]
            observed = [value for value in same_phase if math.isfinite(value)]
            naive = observed[-1] if observed else [value for value in past if math.isfinite(value)][-1]
            losses.append(loss_F[k].item())
            errors.append(abs(point_F[k].item() - target) / scale)
            naive_errors.append(abs(naive - target) / scale)
    network.train()
    return tuple(sum(values) / len(values) for values in (losses, errors, naive_errors))
