"""Penalties on the flow of gradients, slowly: explicit Jacobians by autograd, windows, steps and columns one by one.

N hidden units, T steps, M numbers in the state, K exponents.
"""

from __future__ import annotations

import torch
from tests.reference.adjoints import UnrolledCell, UnrolledLayer, grad
from tests.reference.flow import frame
from torch.autograd.functional import jacobian


def omega(model, loss_fn):
    """Mean of (||a J|| / ||a|| - 1)^2 of a model that was unrolled, with a graph to the weights in J alone."""
    loss = loss_fn()
    terms = []
    for module in model.modules():
        if isinstance(module, UnrolledLayer | UnrolledCell):
            for move, x_D, before, after in module.trail:
                a_M = torch.cat([grad(loss, part) for part in after])
                if not a_M.any():
                    continue
                J_MM = state_jacobian(move, x_D.detach(), before)
                terms.append(((a_M @ J_MM).norm() / a_M.norm() - 1) ** 2)
    return sum(terms) / len(terms)


def state_jacobian(move, x_D, before):
    """Jacobian of one step; the state before it and its inputs are constants, the weights are not."""
    sizes = [len(part) for part in before]
    return jacobian(
        lambda s_M: torch.cat(move(tuple(s_M.split(sizes)), x_D)), torch.cat(before).detach(), create_graph=True
    )


def flossing(step, weights, x_BTD, k, warmup, state_BPLN):
    """Mean of the squares of the k leading exponents, with a graph through everything.

    `weights` are those of each layer; `state_BPLN` holds for each window the parts of the first state, each a list of
    one vector per layer.
    """
    logs = []
    for x_TD, state_PLN in zip(x_BTD, state_BPLN, strict=True):
        s_M = torch.cat([vector for part in state_PLN for vector in part])
        size, depth = len(state_PLN[0][0]), len(weights)
        Q, _ = gram_schmidt(list(frame(len(s_M), k).T))
        for t, x_D in enumerate(x_TD):

            def move(s_M, x=x_D, size=size, depth=depth):
                vectors = s_M.split(size)
                states, below = [], x
                for layer in range(depth):
                    states.append(step(weights[layer], below, tuple(vectors[layer::depth])))
                    below = states[-1][0]
                return torch.cat([state[part] for part in range(len(states[0])) for state in states])

            J_MM = jacobian(move, s_M, create_graph=True)
            s_M = move(s_M)
            Q, lengths = gram_schmidt([J_MM @ q for q in Q])
            if t >= warmup:
                logs.append([length.log() for length in lengths])
    exponents = [sum(row[i] for row in logs) / len(logs) for i in range(k)]
    return sum(exponent**2 for exponent in exponents) / k


def gram_schmidt(columns):
    """Orthonormal columns that span the same, and the length of each beside those before it."""
    directions, lengths = [], []
    for column in columns:
        left = column
        for q in directions:
            left = left - q * (q @ left)
        lengths.append(left.norm())
        directions.append(left / lengths[-1])
    return directions, lengths
