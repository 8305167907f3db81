"""Recurrent layers behind one interface, batch first: h_BTN, state = layer(x_BTD, state).

B windows, T context steps, D features, N hidden units, L layers.
U is `weight_ih`, W is `weight_hh`, b is `bias_ih + bias_hh`. Names, order and gates (LSTM i, f, g, o; GRU r, z, n) are
PyTorch's, so that state dicts load strictly in both directions. The LSTM runs on PyTorch's fused kernel, and so do the
GRU and the tanh and ReLU RNN on a GPU; on a CPU these run on `scan`, which is faster there, and the sigmoid and linear
RNN, which PyTorch lacks, run on it everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from holdfast.errors import OptionError, Problem
from holdfast.networks.init import init_recurrent_
from holdfast.networks.scan import can_scan, scan

CELLS = ("lstm", "gru", "rnn-tanh", "rnn-relu", "rnn-sigmoid", "rnn-linear")
NONLINEARITIES = ("tanh", "relu", "sigmoid", "linear")


class _Recurrent(nn.Module):
    """What the three layers share: parameters, their start, and checks. Leaves add `forward`."""

    _gates: ClassVar[int]
    _shown: ClassVar[tuple[str, ...]] = ("input_size", "hidden_size", "num_layers", "bias", "dropout")

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, bias: bool, dropout: float, cudnn_mode: int | None
    ) -> None:
        super().__init__()
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
        _check_options(type(self).__name__, sizes, dropout)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.dropout = dropout
        self._names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")[: 4 if bias else 2]
        self._cudnn_mode = cudnn_mode
        for k in range(num_layers):
            columns = {"weight_ih": (hidden_size if k else input_size,), "weight_hh": (hidden_size,)}
            for name in self._names:
                weight = torch.empty(self._gates * hidden_size, *columns.get(name, ()))
                self.register_parameter(f"{name}_l{k}", nn.Parameter(weight))
        self.reset_parameters()
        self._pack()

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights: see `init_recurrent_`.

        Args:
            generator: Source of the random numbers, on the device of the weights; the global one by default.
        """
        init_recurrent_(self, generator)

    def extra_repr(self) -> str:
        """The options, as they are written in a call."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self._shown)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _Recurrent:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._pack()
        return self

    def _pack(self) -> None:
        """Put weights that lie on a GPU into one buffer, in cuDNN's order.

        From scattered weights cuDNN computes the same, but warns and copies all of them at every call.
        """
        weights = self._weights()
        # Only plain parameters have memory to move: computed, fake and distributed ones must stay as they are.
        plain = all(isinstance(w, nn.Parameter) and type(w.data) is Tensor for w in weights)
        on_cudnn = torch.backends.cudnn.is_acceptable(weights[0]) and torch._use_cudnn_rnn_flatten_weight()  # type: ignore[no-untyped-call]
        if self._cudnn_mode is not None and plain and on_cudnn:
            sizes = (self.input_size, self._cudnn_mode, self.hidden_size, 0, self.num_layers)
            with torch.no_grad(), torch.cuda.device(weights[0].device):
                torch._cudnn_rnn_flatten_weight(weights, len(self._names), *sizes, True, False)

    def _layer(self, k: int) -> list[Tensor]:
        """Layer k's U, W and biases, looked up by name: a parametrisation may stand in for a parameter."""
        return [getattr(self, f"{name}_l{k}") for name in self._names]

    def _weights(self) -> list[Tensor]:
        """All weights in PyTorch's order."""
        return [weight for k in range(self.num_layers) for weight in self._layer(k)]

    def _run(
        self, kernel: Callable[..., Any], x_BTD: Tensor, start: Tensor | tuple[Tensor, Tensor], weights: list[Tensor]
    ) -> Any:
        """Run one of PyTorch's fused kernels: one direction, batch first."""
        options = (self.bias, self.num_layers, self.dropout, self.training, False, True)
        return kernel(x_BTD, start, weights, *options)

    def _run_or_scan(
        self, kernel: Callable[..., Any] | None, kind: str, x_BTD: Tensor, h_LBN: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Run PyTorch's kernel, or layer by layer the scan: where there is no kernel, and where the scan is faster."""
        weights, count = self._weights(), len(self._names)
        tensors = [*weights, x_BTD, h_LBN]
        on_cpu = all(each.device.type == "cpu" and each.dtype in (torch.float32, torch.float64) for each in tensors)
        if kernel is not None and not (on_cpu and can_scan(*tensors)):
            h_BTN, h_LBN = self._run(kernel, x_BTD, h_LBN, weights)
            return h_BTN, h_LBN
        h_TBN, last = x_BTD.transpose(0, 1), []
        for k, h_BN in enumerate(h_LBN.unbind()):
            if k:
                h_TBN = F.dropout(h_TBN, self.dropout, self.training)
            h_TBN = scan(h_TBN, h_BN, weights[k * count : (k + 1) * count], kind)
            last.append(h_TBN[-1])
        return h_TBN.transpose(0, 1), torch.stack(last)

    def _start(self, x_BTD: Tensor, state_LBN: Tensor | None) -> Tensor:
        """The state before the first step, zero unless given; refuses what does not fit this layer."""
        name = type(self).__name__
        if x_BTD.dim() != 3 or x_BTD.shape[1] < 1 or x_BTD.shape[2] != self.input_size:
            raise _misfit(f"{name} input", f"[B, T, D], T >= 1, D = {self.input_size}", x_BTD)
        shape = (self.num_layers, x_BTD.shape[0], self.hidden_size)
        if state_LBN is None:
            return x_BTD.new_zeros(shape)
        if state_LBN.shape != shape:
            raise _misfit(f"{name} state", f"[L, B, N] = {list(shape)}", state_LBN)
        return state_LBN.contiguous()  # cuDNN refuses anything else


@final
class RNN(_Recurrent):
    """Simple (Elman) recurrent layer: h_t = phi(U x_t + W h_{t-1} + b).

    Args:
        input_size: D, features per step.
        hidden_size: N, hidden units per layer.
        num_layers: L, layers on top of each other.
        nonlinearity: phi: "tanh", "relu", "sigmoid" or "linear" (phi(a) = a).
        bias: Whether there is a b.
        dropout: Probability, in [0, 1), of dropping a unit between two layers during training.

    Raises:
        OptionError: A size below 1, a dropout outside [0, 1), or an unknown nonlinearity.

    Example:
        >>> layer = RNN(3, 4, nonlinearity="sigmoid")
        >>> h_BTN, h_LBN = layer(torch.zeros(2, 5, 3))
        >>> h_BTN.shape, h_LBN.shape
        (torch.Size([2, 5, 4]), torch.Size([1, 2, 4]))
        >>> layer
        RNN(input_size=3, hidden_size=4, num_layers=1, bias=True, dropout=0.0, nonlinearity='sigmoid')

    Reference: Elman, Finding structure in time, Cognitive Science 14 (1990).
    """

    _gates = 1
    _shown = (*_Recurrent._shown, "nonlinearity")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        nonlinearity: str = "tanh",
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        if nonlinearity not in NONLINEARITIES:
            expected = f"one of {', '.join(NONLINEARITIES)}"
            raise OptionError(Problem("RNN nonlinearity", expected, repr(nonlinearity), "give one of these, say tanh"))
        cudnn_mode = {"relu": 0, "tanh": 1}.get(nonlinearity)  # CUDNN_RNN_RELU, CUDNN_RNN_TANH
        super().__init__(input_size, hidden_size, num_layers, bias, dropout, cudnn_mode)
        self.nonlinearity = nonlinearity

    def forward(self, x_BTD: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over all steps.

        Args:
            x_BTD: Inputs [B, T, D].
            state: h_LBN [L, B, N] before the first step; zero by default.

        Returns:
            h_BTN [B, T, N] of the last layer at every step, and h_LBN [L, B, N] of every layer after the last step.

        Raises:
            OptionError: Inputs or state of another shape.

        Example:
            >>> layer = RNN(1, 2)
            >>> x_BTD = torch.ones(1, 4, 1)
            >>> whole_BTN, _ = layer(x_BTD)
            >>> _, h_LBN = layer(x_BTD[:, :3])
            >>> torch.allclose(layer(x_BTD[:, 3:], h_LBN)[0], whole_BTN[:, 3:])
            True
        """
        fused = {"tanh": torch.rnn_tanh, "relu": torch.rnn_relu}.get(self.nonlinearity)
        return self._run_or_scan(fused, self.nonlinearity, x_BTD, self._start(x_BTD, state))


@final
class GRU(_Recurrent):
    """Gated recurrent unit, PyTorch's form (reset after the product), the gates' U, W and b stacked as r, z, n.

    r, z = sigmoid(U x_t + W h_{t-1} + b); n = tanh(U_n x_t + bias_ih_n + r * (W_n h_{t-1} + bias_hh_n));
    h_t = (1 - z) * n + z * h_{t-1}.

    Args:
        input_size: D, features per step.
        hidden_size: N, hidden units per layer.
        num_layers: L, layers on top of each other.
        bias: Whether there is a b.
        dropout: Probability, in [0, 1), of dropping a unit between two layers during training.

    Raises:
        OptionError: A size below 1 or a dropout outside [0, 1).

    Example:
        >>> GRU(3, 4, 2).load_state_dict(torch.nn.GRU(3, 4, 2).state_dict())
        <All keys matched successfully>

    Reference: Cho et al., Learning phrase representations using RNN encoder-decoder, EMNLP 2014.
    """

    _gates = 3

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, dropout, cudnn_mode=3)  # CUDNN_GRU

    def forward(self, x_BTD: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over all steps.

        Args:
            x_BTD: Inputs [B, T, D].
            state: h_LBN [L, B, N] before the first step; zero by default.

        Returns:
            h_BTN [B, T, N] of the last layer at every step, and h_LBN [L, B, N] of every layer after the last step.

        Raises:
            OptionError: Inputs or state of another shape.

        Example:
            >>> h_BTN, h_LBN = GRU(3, 4, 2)(torch.zeros(2, 5, 3))
            >>> torch.equal(h_BTN[:, -1], h_LBN[-1])
            True
        """
        return self._run_or_scan(torch.gru, "gru", x_BTD, self._start(x_BTD, state))


@final
class LSTM(_Recurrent):
    """Long short-term memory with forget gate, the gates' U, W and b stacked as i, f, g, o.

    i, f, o = sigmoid(U x_t + W h_{t-1} + b); g = tanh(U_g x_t + W_g h_{t-1} + b_g);
    c_t = f * c_{t-1} + i * g; h_t = o * tanh(c_t).

    Args:
        input_size: D, features per step.
        hidden_size: N, hidden units per layer.
        num_layers: L, layers on top of each other.
        bias: Whether there is a b.
        dropout: Probability, in [0, 1), of dropping a unit between two layers during training.

    Raises:
        OptionError: A size below 1 or a dropout outside [0, 1).

    Example:
        >>> LSTM(3, 4).load_state_dict(torch.nn.LSTM(3, 4).state_dict())
        <All keys matched successfully>

    Reference: Hochreiter and Schmidhuber, Neural Computation 9 (1997); Gers, Schmidhuber and Cummins, Neural
    Computation 12 (2000), for the forget gate.
    """

    _gates = 4

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, dropout, cudnn_mode=2)  # CUDNN_LSTM

    def forward(
        self, x_BTD: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over all steps.

        Args:
            x_BTD: Inputs [B, T, D].
            state: (h_LBN, c_LBN), each [L, B, N], before the first step; zero by default.

        Returns:
            h_BTN [B, T, N] of the last layer at every step, and (h_LBN, c_LBN) of every layer after the last step.

        Raises:
            OptionError: Inputs or state of another shape.

        Example:
            >>> h_BTN, (h_LBN, c_LBN) = LSTM(3, 4, 2)(torch.zeros(2, 5, 3))
            >>> torch.equal(h_BTN[:, -1], h_LBN[-1])
            True
        """
        h_LBN, c_LBN = (None, None) if state is None else state
        start = (self._start(x_BTD, h_LBN), self._start(x_BTD, c_LBN))
        h_BTN, h_LBN, c_LBN = self._run(torch.lstm, x_BTD, start, self._weights())
        return h_BTN, (h_LBN, c_LBN)


def make_cell(
    name: str, input_size: int, hidden_size: int, num_layers: int = 1, dropout: float = 0.0
) -> RNN | GRU | LSTM:
    """Build the recurrent layer of that name.

    Args:
        name: One of `CELLS`.
        input_size: D, features per step.
        hidden_size: N, hidden units per layer.
        num_layers: L, layers on top of each other.
        dropout: Probability, in [0, 1), of dropping a unit between two layers during training.

    Returns:
        The layer, with biases.

    Raises:
        OptionError: An unknown name, a size below 1 or a dropout outside [0, 1).

    Example:
        >>> make_cell("rnn-relu", 3, 4)
        RNN(input_size=3, hidden_size=4, num_layers=1, bias=True, dropout=0.0, nonlinearity='relu')
    """
    if name not in CELLS:
        raise OptionError(Problem("cell", f"one of {', '.join(CELLS)}", repr(name), "give one of these, say lstm"))
    if name == "lstm":
        return LSTM(input_size, hidden_size, num_layers, dropout=dropout)
    if name == "gru":
        return GRU(input_size, hidden_size, num_layers, dropout=dropout)
    nonlinearity = name.removeprefix("rnn-")
    return RNN(input_size, hidden_size, num_layers, nonlinearity=nonlinearity, dropout=dropout)


def _check_options(layer: str, sizes: dict[str, int], dropout: float) -> None:
    """Refuse sizes that hold nothing and probabilities that are none, all in one error."""
    problems = [
        Problem(f"{layer} {name}", "at least 1", str(size), f"give {name}=1 or more")
        for name, size in sizes.items()
        if size < 1
    ]
    if not 0.0 <= dropout < 1.0:
        problems.append(Problem(f"{layer} dropout", "0 <= dropout < 1", str(dropout), "give dropout=0.0 for none"))
    if problems:
        raise OptionError(problems)


def _misfit(where: str, expected: str, tensor: Tensor) -> OptionError:
    fix = "batch first: windows, steps, features; a state: layers, windows, hidden units"
    return OptionError(Problem(where, expected, str(list(tensor.shape)), fix))
