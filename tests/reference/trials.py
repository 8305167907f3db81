"""One trial as a plain loop: torch's autograd for the gradients, everything about clipping in Python's numbers."""

from __future__ import annotations

import math

import torch

ROLES = {
    "recurrent.weight_ih_l0": "input",
    "recurrent.weight_hh_l0": "recurrent",
    "recurrent.bias_ih_l0": "bias",
    "recurrent.bias_hh_l0": "bias",
    "head.weight": "head",
    "head.bias": "head",
}
SCOPES = {
    "none": [],
    "all": ["input", "recurrent", "bias", "head"],
    "recurrent": ["recurrent"],
    "all-but-head": ["input", "recurrent", "bias"],
    "head": ["head"],
}


def norm(grads):
    return math.sqrt(sum(value**2 for grad in grads for value in grad.double().flatten().tolist()))


def factors(grads, scope, bound):
    """What each gradient is multiplied by."""
    if scope == "per-role":
        by_role = {role: norm([g for name, g in grads.items() if ROLES[name] == role]) for role in set(ROLES.values())}
        return {name: min(1.0, bound / by_role[ROLES[name]]) for name in grads}
    inside = [name for name in grads if ROLES[name] in SCOPES[scope]]
    length = norm([grads[name] for name in inside])
    return {name: min(1.0, bound / length) if name in inside else 1.0 for name in grads}


def median(values):
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def run(model, loss_fn, batches, *, scope, bound, lr):
    """Plain gradient descent over batches. Changes the model; gives back what was measured."""
    clipped, cosines, starved, head_shares, totals = [], [], [], [], []
    for batch in batches:
        names = list(dict(model.named_parameters()))
        found = torch.autograd.grad(loss_fn(model, batch), list(model.parameters()))
        grads = dict(zip(names, found, strict=True))
        factor = factors(grads, scope, bound)
        total, head = norm(grads.values()), norm([g for name, g in grads.items() if ROLES[name] == "head"])
        after = {name: grad * factor[name] for name, grad in grads.items()}
        clipped.append(any(value < 1 for value in factor.values()))
        dot = sum(factor[name] * norm([grad]) ** 2 for name, grad in grads.items())
        cosines.append(dot / (total * norm(after.values())))
        starved.append(head <= bound and bound / total < 0.5)
        head_shares.append(head / total)
        totals.append(total)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter -= lr * after[name]
    return {
        "clip_fraction": sum(clipped) / len(clipped),
        "cosine": sum(cosines) / len(cosines),
        "starved": sum(starved) / len(starved),
        "head_share": median(head_shares),
        "total_norm": median(totals),
    }
