"""The guard as a callback of those who run the loop themselves: Lightning, and the Trainer of transformers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.optim import Optimizer

from holdfast.errors import OptionError, Problem
from holdfast.gradients.attach import Attachment
from holdfast.gradients.clauses import Rule
from holdfast.gradients.guard import GradientGuard
from holdfast.gradients.roles import ROLES, Role
from holdfast.gradients.rules import ClipNorm


class GuardedTraining:
    """One guard for each training that a framework runs: made at its start, attached until its end.

    Args:
        make: Makes the guard of a model.

    Attributes:
        make: The same.
    """

    def __init__(self, make: Callable[[nn.Module], GradientGuard]) -> None:
        self.make = make
        self._guard: GradientGuard | None = None
        self._tie: Attachment | None = None

    @property
    def guard(self) -> GradientGuard:
        """The guard of the newest training, also after its end.

        Raises:
            OptionError: No training was started.
        """
        if self._guard is None:
            fix = "read it in the training or after it"
            raise OptionError(Problem("guard of a callback", "a training that was started", "none so far", fix))
        return self._guard

    def start(self, model: nn.Module, optimizer: Optimizer, saved: Mapping[str, Any] | None = None) -> None:
        """Guard this model and optimiser from now on; with the `state_dict` of an earlier guard, go on from there."""
        self.stop()  # a training that ended in an error did not
        self._guard = self.make(model)
        if saved:
            self._guard.load_state_dict(saved)
        self._tie = self._guard.attach(optimizer)

    def stop(self) -> None:
        """Leave the optimiser as it was before."""
        if self._tie is not None:
            self._tie.remove()
            self._tie = None

    def state_dict(self) -> dict[str, Any]:
        """The guard's own; empty before the first training."""
        return {} if self._guard is None else self._guard.state_dict()

    def figures(self) -> dict[str, float]:
        """What a log shows of the newest step, and the clip fraction so far; empty before the first step."""
        if self._guard is None or self._guard.last is None:
            return {}
        last = self._guard.last
        return {
            "guard/total_norm": last.total_norm,
            "guard/clip_coef": last.clip_coef,
            "guard/clipped_norm": last.clipped_norm,
            "guard/clip_fraction": self._guard.summary().clip_fraction,
        }


class LightningGuard:
    """What `lightning_callback` adds to the `Callback` of Lightning; each method is a hook of that name.

    Attributes:
        training: The guard's training, the same for every copy of a callback.
    """

    training: GuardedTraining
    _saved: Mapping[str, Any] | None = None

    @property
    def guard(self) -> GradientGuard:
        """The guard of the newest training."""
        return self.training.guard

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the guard and attach it; the weights, also of a checkpoint, are in place."""
        if trainer.gradient_clip_val:
            fix = "write Trainer(gradient_clip_val=None); in GluonTS, trainer_kwargs={'gradient_clip_val': None}"
            raise _clips_too("Trainer of Lightning", f"gradient_clip_val={trainer.gradient_clip_val}", fix)
        if len(trainer.optimizers) != 1:
            got = f"{len(trainer.optimizers)} of them"
            fix = (
                "leave out the callback, and in configure_optimizers attach GradientGuard(part, rule) to each optimizer"
            )
            raise OptionError(Problem("optimizers of a lightning_callback", "one", got, fix))
        saved, self._saved = self._saved, None
        self.training.start(trainer.model, trainer.optimizers[0], saved)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log what the step measured, when Lightning logs."""
        every = trainer.log_every_n_steps
        if every and trainer.global_step % every == 0:
            pl_module.log_dict(self.training.figures())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Detach the guard; its summary can still be read."""
        self.training.stop()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detach the guard from a training that failed."""
        self.training.stop()

    def state_dict(self) -> dict[str, Any]:
        """The guard's state, which Lightning puts into its checkpoint."""
        return self.training.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Keep the state until the guard is made: Lightning loads it before there is an optimiser."""
        self._saved = state_dict

    def __reduce__(self) -> tuple[Callable[..., LightningGuard], tuple[Any, ...]]:
        return _lightning_guard, (self.training.make,)  # to a process that Lightning starts: there is no guard yet

    def __deepcopy__(self, memo: dict[int, Any]) -> LightningGuard:
        return self  # NeuralForecast trains copies of its models; the guard stays readable from the user's callback


class TrainerGuard:
    """What `trainer_callback` adds to the `TrainerCallback` of transformers; each method is an event of that name.

    Attributes:
        training: The guard's training, the same for every callback that Trainer makes of this one.
    """

    training: GuardedTraining

    @property
    def guard(self) -> GradientGuard:
        """The guard of the newest training."""
        return self.training.guard

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, optimizer: Any, **_: object) -> None:
        """Make the guard and attach it; weights and optimiser state, also of a checkpoint, are in place."""
        if args.max_grad_norm:
            fix = "write TrainingArguments(max_grad_norm=0)"
            raise _clips_too("Trainer of transformers", f"max_grad_norm={args.max_grad_norm}", fix)
        # Trainer fills this at the start with what `state` says, and on resuming with what it wrote.
        saved = state.stateful_callbacks[type(self).__name__]["attributes"]["saved"] if state.global_step else None
        self.training.start(model, optimizer, saved)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: object) -> None:
        """Add the guard's figures to the logs of a training step."""
        if "loss" in logs:
            figures = self.training.figures()
            logs.update(figures)
            state.log_history[-1].update(figures)  # written just before the callbacks are asked

    def on_train_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        """Detach the guard; its summary can still be read."""
        self.training.stop()

    def state(self) -> dict[str, Any]:
        """What Trainer writes into trainer_state.json of every checkpoint."""
        return {"args": {}, "attributes": {"saved": self.training.state_dict()}}


def lightning_callback(
    rule: Rule | Mapping[Role, Rule | None] | None,
    *,
    cap: ClipNorm | None = None,
    roles: Sequence[Role] = ROLES,
    overrides: Mapping[str, Role] | None = None,
    nonfinite: Literal["skip", "raise"] = "skip",
    give_up_after: int | None = 10,
) -> LightningGuard:
    """A callback for the `Trainer` of Lightning, and so for NeuralForecast and GluonTS: clips right before the update.

    It makes a guard for the module when training starts, logs its figures, and keeps its state in Lightning's
    checkpoints. The trainer's own clipping must be off.

    Args:
        rule: As for `GradientGuard`.
        cap: As for `GradientGuard`.
        roles: As for `GradientGuard`.
        overrides: As for `GradientGuard`; names as in the LightningModule.
        nonfinite: As for `GradientGuard`.
        give_up_after: As for `GradientGuard`.

    Returns:
        A callback of every Lightning that is imported, `lightning.pytorch` or `pytorch_lightning`; its `guard` is
        the guard of the newest training.

    Raises:
        OptionError: Lightning is not installed. In `fit`: the trainer clips too, or has several optimizers.

    Example:
        >>> from holdfast.gradients import ClipNorm
        >>> callback = lightning_callback(ClipNorm(1.0))
        >>> callback.guard
        Traceback (most recent call last):
        ...
        holdfast.errors.OptionError: guard of a callback
          expected: a training that was started
          got:      none so far
          to do:    read it in the training or after it
    """
    options = partial(GradientGuard, rule=rule, cap=cap, roles=roles, overrides=overrides)
    return _lightning_guard(partial(options, nonfinite=nonfinite, give_up_after=give_up_after))


def trainer_callback(
    rule: Rule | Mapping[Role, Rule | None] | None,
    *,
    cap: ClipNorm | None = None,
    roles: Sequence[Role] = ROLES,
    overrides: Mapping[str, Role] | None = None,
    nonfinite: Literal["skip", "raise"] = "skip",
    give_up_after: int | None = 10,
) -> TrainerGuard:
    """A callback for the `Trainer` of transformers: clips right before the update.

    It makes a guard for the model when training starts, adds its figures to the logs, and keeps its state in
    trainer_state.json of Trainer's checkpoints. Trainer's own clipping must be off.

    Args:
        rule: As for `GradientGuard`.
        cap: As for `GradientGuard`.
        roles: As for `GradientGuard`.
        overrides: As for `GradientGuard`.
        nonfinite: As for `GradientGuard`.
        give_up_after: As for `GradientGuard`.

    Returns:
        A callback whose `guard` is the guard of the newest training.

    Raises:
        OptionError: transformers is not installed. In `train`: `max_grad_norm` is not 0 (its default is 1).

    Example:
        >>> from holdfast.gradients import ClipNorm
        >>> type(trainer_callback(ClipNorm(1.0))).__mro__[2].__name__
        'TrainerCallback'
    """
    try:
        from transformers.trainer_callback import ExportableState, TrainerCallback
    except ModuleNotFoundError as error:
        raise _missing("trainer_callback", "transformers", "pip install transformers accelerate") from error
    options = partial(GradientGuard, rule=rule, cap=cap, roles=roles, overrides=overrides)
    training = GuardedTraining(partial(options, nonfinite=nonfinite, give_up_after=give_up_after))
    # A class for each call: on resuming, Trainer may make the callback anew from its class, without arguments.
    kind = type("TrainerGuard", (TrainerGuard, TrainerCallback, ExportableState), {"training": training})
    callback: TrainerGuard = kind()
    return callback


def _lightning_guard(make: Callable[[nn.Module], GradientGuard]) -> LightningGuard:
    """A class for each callback: its bases, one for each of the two packages that are Lightning, are known only now."""
    kind = type("LightningGuard", (LightningGuard, *_lightning_bases()), {"training": GuardedTraining(make)})
    callback: LightningGuard = kind()
    return callback


def _lightning_bases() -> tuple[type, ...]:
    """The `Callback` of each Lightning that is imported; of one that is installed if none is."""
    imported = [sys.modules[name] for name in ("lightning.pytorch", "pytorch_lightning") if name in sys.modules]
    if imported:
        return tuple(package.Callback for package in imported)
    try:
        from lightning.pytorch import Callback
    except ModuleNotFoundError:
        try:
            from pytorch_lightning import Callback
        except ModuleNotFoundError as error:
            raise _missing("lightning_callback", "Lightning", "pip install lightning") from error
    return (Callback,)


def _missing(where: str, package: str, fix: str) -> OptionError:
    return OptionError(Problem(where, f"{package}, which it is a callback of", "it is not installed", fix))


def _clips_too(where: str, got: str, fix: str) -> OptionError:
    # The norm before clipping, and the clip fraction, would be those of gradients that were clipped already.
    return OptionError(Problem(where, "no clipping of its own beside the guard's", got, fix))
