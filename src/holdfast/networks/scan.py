"""One layer of an RNN or GRU over all steps, and its backpropagation through time by hand.

h_TBN = scan(x_TBX, h_BN, ...). T steps, B windows, X features that enter the layer, N hidden units, G rows of all gates
(N or 3 N), K steps of a block. U is `weight_ih`, W is `weight_hh`. Step by step there is only the product with W, in
place; products with the inputs, and those that make the gradients of the weights, are over blocks of steps that are
long enough for a fast product and short enough to stay in the cache. Blocks are also what is kept for the way back, for
memory in small pieces is used again, where the system takes large ones back and clears them anew at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

ROWS = 1024  # of a block: K steps of B windows
_aten = torch.ops.aten
_tanh_backward = _aten.tanh_backward.grad_input
_relu_backward = _aten.threshold_backward.grad_input
_sigmoid_backward = _aten.sigmoid_backward.grad_input
_PHI: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "linear": torch.clone,
}
# phi in place; and delta = g * phi'(a) into its last argument, the slope told by h = phi(a).
_IN_PLACE: dict[str, tuple[Callable[[Tensor], object], Callable[[Tensor, Tensor, Tensor], object]]] = {
    "tanh": (torch.tanh_, lambda g, h, delta: _tanh_backward(g, h, grad_input=delta)),
    "relu": (torch.relu_, lambda g, h, delta: _relu_backward(g, h, 0, grad_input=delta)),
    "sigmoid": (torch.sigmoid_, lambda g, h, delta: _sigmoid_backward(g, h, grad_input=delta)),
    "linear": (lambda a: a, lambda g, _, delta: delta.copy_(g)),
}


def can_scan(*tensors: Tensor) -> bool:
    """Whether these are plain tensors that nothing traces, transforms or lowers: work in place would escape it."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.is_autocast_enabled(tensors[0].device.type)
        or any(type(each) not in (Tensor, nn.Parameter) for each in tensors)
        or any(unpack_dual(each).tangent is not None for each in tensors)  # type: ignore[no-untyped-call]
    )


def scan(x_TBX: Tensor, h_BN: Tensor, weights: list[Tensor], kind: str) -> Tensor:
    """h_t of a layer at every step.

    Args:
        x_TBX: Inputs [T, B, X], T at least 1.
        h_BN: The state before the first step [B, N].
        weights: U and W, and b_ih and b_hh or nothing.
        kind: "gru", or the nonlinearity of an RNN.

    Returns:
        h_TBN [T, B, N].

    Example:
        >>> U, W = torch.ones(1, 1), torch.full((1, 1), 0.5)
        >>> scan(torch.ones(3, 1, 1), torch.zeros(1, 1), [U, W], "linear").flatten()
        tensor([1.0000, 1.5000, 1.7500])
    """
    U, W = weights[:2]
    b_ih, b_hh = weights[2:] or (U.new_zeros(len(U)), U.new_zeros(len(U)))
    inputs = (x_TBX, h_BN, U, W, b_ih, b_hh)
    if not can_scan(*inputs):
        return _out_of_place(inputs, kind)
    function = _GRUScan if kind == "gru" else _RNNScan
    h_TBN: Tensor = function.apply(*inputs, kind, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return h_TBN


def _out_of_place(inputs: Sequence[Tensor], kind: str) -> Tensor:
    """The same as its formula reads, for whatever wants to differentiate twice, vectorise, trace or lower it."""
    x_TBX, h_BN, U, W, b_ih, b_hh = inputs
    h = []
    for a_BG in F.linear(x_TBX, U, b_ih).unbind():
        m_BG = F.linear(h_BN, W, b_hh)
        if kind == "gru":
            (a_r, a_z, a_n), (m_r, m_z, m_n) = a_BG.chunk(3, -1), m_BG.chunk(3, -1)
            n, z = torch.tanh(a_n + torch.sigmoid(a_r + m_r) * m_n), torch.sigmoid(a_z + m_z)
            h_BN = n + z * (h_BN - n)
        else:
            h_BN = _PHI[kind](a_BG + m_BG)
        h.append(h_BN)
    return torch.stack(h)


def _blocks(*by_step: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors [T, B, ...] in blocks of K steps."""
    K = max(1, ROWS // max(1, by_step[0].shape[1]))
    return zip(*(torch.split(each, K) for each in by_step), strict=True)


class _RNNScan(torch.autograd.Function):
    """h_t = phi(a_t), a_t = U x_t + W h_{t-1} + b.

    Backwards, with g_t the gradient that reaches h_t from above and delta_t = dL/da_t:
    delta_t = phi'(a_t) * (g_t + W^T delta_{t+1}).
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x_TBX, h_BN, U, W, b_ih, b_hh, ctx.kind, _ = arguments
        phi_, _ = _IN_PLACE[ctx.kind]
        h_TBN: Tensor = h_BN.new_empty(len(x_TBX), *h_BN.shape)
        b = b_ih + b_hh
        for x_KBX, h_KBN in _blocks(x_TBX, h_TBN):
            torch.addmm(b, x_KBX.flatten(0, 1), U.T, out=h_KBN.flatten(0, 1))
            for a_BN in h_KBN.unbind():
                phi_(a_BN.addmm_(h_BN, W.T))
                h_BN = a_BN
        ctx.save_for_backward(*arguments[:6], h_TBN)
        return h_TBN

    @staticmethod
    def backward(ctx: Any, g_TBN: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return _differentiable(ctx, g_TBN)
        *inputs, h_TBN = ctx.saved_tensors
        _, h_BN, _, W, *_ = inputs
        _, times_slope = _IN_PLACE[ctx.kind]
        gradients = _BlockSums(ctx, inputs, h_TBN)
        total_BN = g_TBN[-1].clone()  # dL/dh_t
        above = [torch.zeros_like(h_BN), *g_TBN[:-1].unbind()]  # g_{t-1}
        delta_KBN = torch.empty_like(next(_blocks(h_TBN))[0])
        for (h_KBN,) in reversed(list(_blocks(h_TBN))):
            deltas = delta_KBN[: len(h_KBN)]
            for h_t, delta_BN in zip(reversed(h_KBN.unbind()), reversed(deltas.unbind()), strict=True):
                times_slope(total_BN, h_t, delta_BN)
                torch.addmm(above.pop(), delta_BN, W, out=total_BN)
            gradients.add(deltas)
        return gradients.of(total_BN)


class _GRUScan(torch.autograd.Function):
    """h_t = n + z * (h_{t-1} - n), n = tanh(U_n x_t + b_ih,n + r * m), m = W_n h_{t-1} + b_hh,n.

    Backwards, with g the gradient of h_t from above and from h_{t+1}: dL/da_n = g (1 - z) (1 - n^2), dL/dm = dL/da_n r,
    dL/da_r = dL/dm m (1 - r), dL/da_z = g (1 - z) (h_t - n), and h_{t-1} gets g z + W^T dL/d(a_r, a_z, m).
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x_TBX, h_BN, U, W, b_ih, b_hh, ctx.kind, keep = arguments
        N = h_BN.shape[1]
        b = torch.cat((b_ih[: 2 * N] + b_hh[: 2 * N], b_ih[2 * N :]))
        W_rz, W_n, b_n = W[: 2 * N].T, W[2 * N :].T, b_hh[2 * N :]
        h_TBN: Tensor = h_BN.new_empty(len(x_TBX), *h_BN.shape)
        kept = []
        for x_KBX, h_KBN in _blocks(x_TBX, h_TBN):
            gates_KBG = torch.addmm(b, x_KBX.flatten(0, 1), U.T).view(*h_KBN.shape[:2], 3 * N)
            m_KBN = torch.empty_like(h_KBN)
            kept += [gates_KBG, m_KBN] if keep else []
            views = (gates_KBG[..., : 2 * N], *gates_KBG.chunk(3, -1), m_KBN, h_KBN)
            for rz, r, z, n, m, h_t in zip(*(each.unbind() for each in views), strict=True):
                rz.addmm_(h_BN, W_rz).sigmoid_()
                torch.addmm(b_n, h_BN, W_n, out=m)
                n.addcmul_(r, m).tanh_()
                h_BN = torch.lerp(n, h_BN, z, out=h_t)
        ctx.save_for_backward(*arguments[:6], h_TBN, *kept)
        return h_TBN

    @staticmethod
    def backward(ctx: Any, g_TBN: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            return _differentiable(ctx, g_TBN)
        inputs, (h_TBN, *kept) = ctx.saved_tensors[:6], ctx.saved_tensors[6:]
        _, h_BN, _, W, *_ = inputs
        gradients = _BlockSums(ctx, inputs, h_TBN)
        g_BN, before_BN = g_TBN[-1].clone(), torch.empty_like(h_BN)
        above = [torch.zeros_like(h_BN), *g_TBN[:-1].unbind()]  # g_{t-1}
        delta_KBG, delta_n_KBN = torch.empty_like(kept[0]), torch.empty_like(kept[1])
        for (h_KBN,), gates_KBG, m_KBN in reversed(list(zip(_blocks(h_TBN), kept[::2], kept[1::2], strict=True))):
            deltas, deltas_n = delta_KBG[: len(h_KBN)], delta_n_KBN[: len(h_KBN)]
            views = (h_KBN, *gates_KBG.chunk(3, -1), m_KBN, deltas, *deltas.chunk(3, -1), deltas_n)
            steps = zip(*(reversed(each.unbind()) for each in views), strict=True)
            for h_t, r, z, n, m, delta_BG, dr, dz, dm, dn in steps:
                torch.addcmul(above.pop(), g_BN, z, out=before_BN)
                g_BN.addcmul_(g_BN, z, value=-1)
                torch.sub(h_t, n, out=dz)
                dz.mul_(g_BN)
                _tanh_backward(g_BN, n, grad_input=dn)
                torch.mul(dn, r, out=dm)
                torch.mul(dm, m, out=dr)
                dr.addcmul_(dr, r, value=-1)
                g_BN, before_BN = before_BN.addmm_(delta_BG, W), g_BN
            gradients.add(deltas, deltas_n)
        return gradients.of(g_BN)


class _BlockSums:
    """Sums over steps, taken block by block from the last step to the first; only what is asked for.

    dL/dW = sum_t delta_t h_{t-1}^T, dL/dU = sum_t delta_t x_t^T, dL/db = sum_t delta_t, dL/dx_t = U^T delta_t.
    """

    def __init__(self, ctx: Any, inputs: Sequence[Tensor], h_TBN: Tensor) -> None:
        self._x_TBX, self._h_BN, self._U, W, *_ = inputs
        self._h_TBN = h_TBN
        self._for_x, _, *for_weights = ctx.needs_input_grad[:6]
        self._for_weights = any(for_weights)
        self._dx_TBX = self._x_TBX.new_empty(self._x_TBX.shape) if self._for_x else None
        self._dU_XG = W.new_zeros(self._x_TBX.shape[2], len(W))  # transposed: with few features a faster product
        self._dW, self._db_hh, self._db_n = torch.zeros_like(W), W.new_zeros(len(W)), W.new_zeros(W.shape[1])
        self._end = len(h_TBN)

    def add(self, delta_KBG: Tensor, delta_n_KBN: Tensor | None = None) -> None:
        """The block before: the deltas of W h_{t-1}, and for a GRU that of U_n x_t, which differs."""
        start, end = self._end - len(delta_KBG), self._end
        self._end = start
        N = self._h_BN.shape[1]
        x, delta = self._x_TBX[start:end].flatten(0, 1), delta_KBG.flatten(0, 1)
        parts = [delta] if delta_n_KBN is None else [delta[:, : 2 * N], delta_n_KBN.flatten(0, 1)]
        if self._for_weights:
            before = (
                self._h_TBN[start - 1 : end - 1] if start else torch.cat((self._h_BN[None], self._h_TBN[: end - 1]))
            )
            self._dW.addmm_(delta.T, before.flatten(0, 1))
            self._db_hh.add_(delta.sum(0))
            for dU, part in zip(torch.split(self._dU_XG, [part.shape[1] for part in parts], 1), parts, strict=True):
                dU.addmm_(x.T, part)
            if delta_n_KBN is not None:
                self._db_n.add_(parts[1].sum(0))
        if self._dx_TBX is not None:
            dx = self._dx_TBX[start:end].flatten(0, 1)
            torch.mm(parts[0], self._U[: parts[0].shape[1]], out=dx)
            if delta_n_KBN is not None:
                dx.addmm_(parts[1], self._U[2 * N :])

    def of(self, dh_BN: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of all inputs, with that of the state before the first step."""
        if not self._for_weights:
            return self._dx_TBX, dh_BN, *[None] * 6
        N = self._h_BN.shape[1]
        db_ih = self._db_hh.clone() if len(self._dW) == N else torch.cat((self._db_hh[: 2 * N], self._db_n))
        return self._dx_TBX, dh_BN, self._dU_XG.T, self._dW, db_ih, self._db_hh, None, None


def _differentiable(ctx: Any, g_TBN: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of all inputs with a graph of their own."""
    wanted = ctx.needs_input_grad[:6]
    inputs = [each.view_as(each) for each in ctx.saved_tensors[:6]]  # one input may have been made from another
    with torch.autocast(g_TBN.device.type, enabled=False):
        h_TBN = _out_of_place(inputs, ctx.kind)
    asked = [each for each, want in zip(inputs, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(h_TBN, asked, g_TBN, create_graph=True))
    return *(next(found) if want else None for want in wanted), None, None
