"""The guard in other people's loops: each walks the path of the plain loop, bit for bit, and says the same norms."""

from __future__ import annotations

import copy
import json
import math
import sys
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pandas as pd
import pytest
import torch
from tests.gradients.trajectories import (
    RULE,
    STEPS,
    TORCH,
    Path,
    attached,
    batches,
    check_same,
    flat,
    guarded,
    network,
    sgd,
    torch_clipped,
    walk,
)
from torch import nn
from torch.amp import GradScaler
from torch.utils.data import DataLoader, IterableDataset

from holdfast.errors import OptionError, TrainingError
from holdfast.gradients import ClipNorm, GradientGuard, lightning_callback, trainer_callback

REASON = "an optional package, installed by the extra `test`"

# What the frameworks themselves warn of; nothing of it is about gradients.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),  # advice on speed
    pytest.mark.filterwarnings(
        "ignore:.*treespec, LeafSpec:FutureWarning"
    ),  # Lightning 2.6 calls what torch 2.13 renamed
]


@pytest.fixture(scope="module")
def plain():
    return walk(guarded)


@pytest.fixture(scope="module")
def folded():
    return walk(guarded, parts=2)


def test_the_plain_loop_clips_some_steps_and_attaching_changes_nothing(plain):
    assert 0.2 < sum(norm > RULE.max_norm for norm in plain.norms) / STEPS < 0.8
    check_same(walk(attached), plain)


def test_the_plain_rule_is_the_clipping_of_torch(plain):
    check_same(walk(torch_clipped), plain, TORCH)


def test_accumulated_gradients_are_those_of_the_whole_batch(plain, folded):
    check_same(folded, plain, 1e-10)
    check_same(walk(attached, parts=2), folded)


# Lightning


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def lightning(request):
    return pytest.importorskip(request.param, reason=REASON)


def module_of(lightning, path, callback=None, manual=False):
    """A LightningModule around the network, that writes down where it goes."""

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network()
            self.automatic_optimization = not manual

        def configure_optimizers(self):
            return sgd(self)

        def training_step(self, batch, batch_idx):
            loss = self.network(**batch)["loss"]
            if manual:
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
            return loss

        def on_train_batch_end(self, outputs, batch, batch_idx):
            if self.global_step > len(path.norms):
                path.add(self, callback.guard.last.total_norm if callback else math.nan)

    return Module()


def fit(lightning, module, *callbacks, data=None, steps=STEPS, resume=None, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(
        max_steps=steps, callbacks=list(callbacks), **{**quiet, "enable_checkpointing": False, **options}
    )
    trainer.fit(module, DataLoader(batches() if data is None else data, batch_size=None), ckpt_path=resume)
    return trainer


@pytest.mark.parametrize("manual", [False, True])
def test_lightning_walks_the_same_path(lightning, plain, manual):
    path, callback = Path(), lightning_callback(RULE)
    assert isinstance(callback, lightning.Callback)
    trainer = fit(lightning, module_of(lightning, path, callback, manual), callback)
    check_same(path, plain)
    assert callback.guard.summary().steps == STEPS
    assert not trainer.optimizers[0]._optimizer_step_pre_hooks


def test_lightning_accumulates_before_the_guard_measures(lightning, folded):
    path, callback = Path(), lightning_callback(RULE)
    module = module_of(lightning, path, callback)
    fit(lightning, module, callback, data=batches(parts=2), accumulate_grad_batches=2)
    check_same(path, folded)


def test_lightning_own_clipping_is_the_same_up_to_the_arithmetic_of_torch(lightning, plain):
    path = Path()
    fit(lightning, module_of(lightning, path), gradient_clip_val=RULE.max_norm)
    torch.testing.assert_close(torch.stack(path.weights), torch.stack(plain.weights), rtol=TORCH, atol=TORCH)


def test_lightning_with_a_scaler_measures_unscaled_gradients(lightning):
    def halved(max_norm=None, fused=False, callback=None):
        module = module_of(lightning, path := Path(), callback)
        module.network = network(torch.float32, nn.GRU)  # not every CPU has an LSTM in float16
        module.configure_optimizers = lambda: sgd(module, fused)
        precision = lightning.plugins.MixedPrecision("16-mixed", "cpu", GradScaler("cpu", init_scale=2.0**14))
        callbacks = [callback] if callback else []
        options = {"plugins": [precision], "gradient_clip_val": max_norm, "data": batches(torch.float32)}
        fit(lightning, module, *callbacks, **options)
        return path

    theirs = torch.stack(halved(RULE.max_norm).weights)
    for fused in (False, True):
        callback = lightning_callback(RULE)
        path = halved(fused=fused, callback=callback)
        torch.testing.assert_close(torch.stack(path.weights), theirs, rtol=100 * TORCH, atol=100 * TORCH)
        assert 0.2 < callback.guard.summary().clip_fraction < 0.8
        assert max(path.norms) < 10.0


def test_lightning_names_the_tensor_that_is_not_finite(lightning):
    path, callback = Path(), lightning_callback(RULE, give_up_after=2)
    module = module_of(lightning, path, callback)
    module.network.out.bias.register_hook(lambda grad: grad * math.nan)
    with pytest.raises(TrainingError, match="2 non-finite steps in a row"):
        fit(lightning, module, callback)
    assert callback.guard.last.nonfinite == ("network.out.bias",)
    assert torch.equal(path.weights[-1], flat(network()))


def test_lightning_logs_before_and_after(lightning, plain):
    rows = []

    class Logger(lightning.loggers.logger.DummyLogger):
        def log_metrics(self, metrics, step=None):
            rows.append(metrics)

    callback = lightning_callback(RULE)
    fit(lightning, module_of(lightning, Path(), callback), callback, logger=Logger(), log_every_n_steps=1)
    assert [row["guard/total_norm"] for row in rows] == pytest.approx(plain.norms, rel=1e-6)
    assert [row["guard/clip_coef"] for row in rows] == pytest.approx([min(1, 1 / n) for n in plain.norms], rel=1e-6)
    assert [row["guard/clipped_norm"] for row in rows] == pytest.approx([min(1, n) for n in plain.norms], rel=1e-6)
    clipped = [sum(norm > 1 for norm in plain.norms[:k]) / k for k in range(1, STEPS + 1)]
    assert [row["guard/clip_fraction"] for row in rows] == pytest.approx(clipped, rel=1e-6)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
def test_lightning_resumes_the_guard_with_everything_else(lightning, plain, tmp_path):
    path, callback, resumed, whole = Path(), *(lightning_callback(RULE) for _ in range(3))
    trainer = fit(lightning, module_of(lightning, path, callback), callback, steps=25)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    rest = batches()[25:] + batches()[:25]  # Lightning counts on from batch 25, and reads the data from its beginning
    fit(lightning, module_of(lightning, path, resumed), resumed, data=rest, resume=tmp_path / "half.ckpt")
    check_same(path, plain)
    fit(lightning, module_of(lightning, Path(), whole), whole)
    assert resumed.guard.state_dict() == whole.guard.state_dict()
    assert resumed.guard.summary().steps == STEPS


def test_lightning_skips_a_bad_step_and_goes_on(lightning):
    data = batches()
    data[7]["y"] = data[7]["y"] * math.nan
    path, callback = Path(), lightning_callback(RULE)
    fit(lightning, module_of(lightning, path, callback), callback, data=data)
    assert torch.equal(path.weights[7], path.weights[6])
    assert math.isnan(path.norms[7]) and all(map(math.isfinite, path.norms[8:]))
    assert (callback.guard.summary().skipped, callback.guard.summary().steps) == (1, STEPS)


def test_lightning_clipping_too_is_refused(lightning):
    callback = lightning_callback(RULE)
    with pytest.raises(OptionError, match=r"gradient_clip_val=0.5(.|\n)*Trainer\(gradient_clip_val=None\)"):
        fit(lightning, module_of(lightning, Path(), callback), callback, gradient_clip_val=0.5)


def test_lightning_with_two_optimizers_is_refused_by_the_callback_and_guarded_by_hand(lightning):
    class Pair(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.one, self.two = network(), network()
            self.automatic_optimization = False

        def configure_optimizers(self):
            optimizers = [sgd(self.one), sgd(self.two)]
            self.guards = [GradientGuard(self.one, RULE), GradientGuard(self.two, None)]
            if attach:
                for guard, optimizer in zip(self.guards, optimizers, strict=True):
                    guard.attach(optimizer)
            return optimizers

        def training_step(self, batch, batch_idx):
            for part, optimizer in zip((self.one, self.two), self.optimizers(), strict=True):
                optimizer.zero_grad()
                self.manual_backward(part(**batch)["loss"])
                optimizer.step()

    attach = False
    with pytest.raises(OptionError, match="2 of them"):
        fit(lightning, Pair(), lightning_callback(RULE))
    attach, module = True, Pair()
    fit(lightning, module, steps=2 * STEPS)  # Lightning counts each update
    assert [guard.summary().steps for guard in module.guards] == [STEPS, STEPS]
    assert module.guards[0].summary().clip_fraction > module.guards[1].summary().clip_fraction == 0.0


def test_lightning_leaves_no_guard_behind_a_training_that_failed(lightning):
    class Failing(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 3:
                raise KeyError("as a user's code does")

    callback = lightning_callback(RULE)
    path = Path()
    module = module_of(lightning, path, callback)
    optimizers = []
    module.on_train_start = lambda: optimizers.extend(module.trainer.optimizers)
    with pytest.raises(KeyError, match="user's"):
        fit(lightning, module, callback, Failing())
    assert optimizers and not optimizers[0]._optimizer_step_pre_hooks
    assert callback.guard.summary().steps == 3


def test_a_callback_of_the_lightning_that_is_imported(lightning, monkeypatch):
    for other in {"lightning.pytorch", "pytorch_lightning"} - {lightning.__name__}:
        monkeypatch.delitem(sys.modules, other, raising=False)
    callback = lightning_callback(RULE)
    assert [base for base in type(callback).__mro__ if base.__name__ == "Callback"] == [lightning.Callback]


def test_a_callback_is_shared_by_copies_and_made_anew_in_other_processes(lightning):
    callback = lightning_callback(RULE, roles=("recurrent",))
    assert copy.deepcopy(callback) is callback
    sent = ForkingPickler.loads(ForkingPickler.dumps(callback))
    assert isinstance(sent, lightning.Callback) and sent.training is not callback.training
    assert sent.training.make(network()).describe() == callback.training.make(network()).describe()


# NeuralForecast and GluonTS, which train through Lightning


MAX_NORM = 0.5
SERIES = 10 * np.sin(np.arange(120) * 2 * np.pi / 12) + 20


class Norms:
    """What a user of Lightning would write to see the norms before clipping."""

    def __init__(self):
        self.norms = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        grads = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
        self.norms.append(nn.utils.get_total_norm(grads).item())

    def __deepcopy__(self, memo):
        return self


def norms_seen_by(package):
    return type("Norms", (Norms, pytest.importorskip(package, reason=REASON).Callback), {})()


def neuralforecast_lstm(folder, max_norm, *callbacks):
    peer = pytest.importorskip("neuralforecast", reason=REASON)
    table = pd.DataFrame({"unique_id": "a", "ds": np.arange(len(SERIES)), "y": SERIES})
    sizes = {"h": 6, "input_size": 12, "encoder_n_layers": 1, "encoder_hidden_size": 8, "decoder_hidden_size": 8}
    options = {"batch_size": 4, "windows_batch_size": 16, "scaler_type": "standard", "learning_rate": 0.01}
    quiet = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu", "enable_model_summary": False}
    model = peer.models.LSTM(
        max_steps=STEPS, gradient_clip_val=max_norm, callbacks=list(callbacks), **sizes, **options, **quiet
    )
    forecaster = peer.NeuralForecast([model], freq=1)
    forecaster.fit(table)
    return forecaster.models[0]


def gluonts_deepar(folder, max_norm, *callbacks):
    peer = pytest.importorskip("gluonts.torch", reason=REASON)
    pytest.importorskip("lightning.pytorch", reason=REASON).seed_everything(1, verbose=False)
    quiet = {"enable_progress_bar": False, "logger": False, "accelerator": "cpu", "enable_model_summary": False}
    estimator = peer.DeepAREstimator(
        freq="D",
        prediction_length=6,
        context_length=12,
        hidden_size=8,
        batch_size=8,
        num_batches_per_epoch=STEPS,
        trainer_kwargs={
            "max_epochs": 1,
            "gradient_clip_val": max_norm,
            "callbacks": list(callbacks),
            "default_root_dir": folder,
            **quiet,
        },
    )
    return estimator.train_model([{"start": pd.Period("2020-01-01", freq="D"), "target": SERIES}]).trained_net


# What they warn of concerns their own code and Lightning's; what is said of ours is still an error.
of_peers = pytest.mark.filterwarnings(
    "ignore:::(torch|lightning|pytorch_lightning|lightning_utilities|gluonts|neuralforecast)[.]"
)
PEERS = [(neuralforecast_lstm, "pytorch_lightning"), (gluonts_deepar, "lightning.pytorch")]


@of_peers
@pytest.mark.parametrize(("peer", "package"), PEERS)
def test_a_peer_trains_as_with_its_own_clipping_and_the_norms_are_known(peer, package, tmp_path):
    seen, callback = norms_seen_by(package), lightning_callback(ClipNorm(MAX_NORM))
    clipped_by_torch = peer(tmp_path, MAX_NORM, seen)
    theirs = list(seen.norms)
    seen.norms.clear()
    guarded_model = peer(tmp_path, None, callback, seen)
    assert len(seen.norms) == len(theirs) == callback.guard.summary().steps == STEPS
    assert seen.norms == pytest.approx(theirs, rel=1e-3)  # float32, and 1e-6 in the denominator of torch
    for one, two in zip(guarded_model.parameters(), clipped_by_torch.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)
    share = sum(norm > MAX_NORM for norm in seen.norms) / STEPS
    assert callback.guard.summary().clip_fraction == share > 0.2
    assert callback.guard.last.total_norm == pytest.approx(seen.norms[-1], rel=1e-6)


@of_peers
@pytest.mark.parametrize(("peer", "package"), PEERS)
def test_a_recurrent_rule_inside_a_peer_leaves_the_head_alone(peer, package, tmp_path):
    pytest.importorskip(package, reason=REASON)
    heads = {gluonts_deepar: {"model.param_proj": "head"}}  # DeepAR registers its head before the recurrent layers
    rules = {"recurrent": ClipNorm(1e-3), "head": None}
    callback = lightning_callback(rules, overrides=heads.get(peer))
    peer(tmp_path, None, callback)
    roles = callback.guard.summary().roles
    assert roles["recurrent"].clip_fraction > 0.9
    assert roles["head"].clip_fraction == 0.0
    assert callback.guard.last.role_clipped_norms["recurrent"] <= 1e-3


@of_peers
def test_gluonts_default_clipping_is_refused(tmp_path):
    pytest.importorskip("lightning", reason=REASON)
    with pytest.raises(OptionError, match=r"gradient_clip_val=10.0(.|\n)*'gradient_clip_val': None"):
        gluonts_deepar(tmp_path, 10.0, lightning_callback(RULE))


# Accelerate


@pytest.fixture
def accelerator():
    accelerate = pytest.importorskip("accelerate", reason=REASON)
    yield lambda **options: accelerate.Accelerator(cpu=True, **options)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def accelerated(accelerator, path, data):
    model = network()
    model, optimizer, loader = accelerator.prepare(model, sgd(model), DataLoader(data, batch_size=None))
    guard = GradientGuard(model, RULE)
    guard.attach(optimizer)
    accelerator.register_for_checkpointing(guard)

    def train():
        for batch in loader:
            with accelerator.accumulate(model):
                accelerator.backward(model(**batch)["loss"])
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.sync_gradients:
                path.add(model, guard.last.total_norm)

    return guard, train


def test_accelerate_walks_the_same_path(accelerator, plain):
    path = Path()
    guard, train = accelerated(accelerator(), path, batches())
    train()
    check_same(path, plain)
    assert guard.summary().steps == STEPS


def test_accelerate_accumulates_before_the_guard_measures(accelerator, folded):
    path = Path()
    guard, train = accelerated(accelerator(gradient_accumulation_steps=2), path, batches(parts=2))
    train()
    check_same(path, folded)
    assert guard.summary().steps == STEPS


def test_accelerate_keeps_the_guard_in_its_checkpoint(accelerator, plain, tmp_path):
    path, one = Path(), accelerator()
    guard, train = accelerated(one, path, batches()[:25])
    train()
    one.save_state(tmp_path / "half")
    other = accelerator()
    resumed, train = accelerated(other, path, batches()[25:])
    other.load_state(tmp_path / "half")
    assert resumed.state_dict() == guard.state_dict()
    train()
    check_same(path, plain)
    assert resumed.summary().steps == STEPS


# The Trainer of transformers


class Windows(IterableDataset):
    """Window after window, so that Trainer makes the batches in this order."""

    def __init__(self, data):
        self.data = data

    def __iter__(self):
        for batch in self.data:
            yield from ({"x": x, "y": y} for x, y in zip(batch["x"], batch["y"], strict=True))


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason=REASON)


def train(transformers, folder, path, *callbacks, model=None, data=None, resume=None, **options):
    class Recorder(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, model, **_):
            path.add(model, callbacks[0].guard.last.total_norm if callbacks else math.nan)

        def on_log(self, args, state, control, logs, **_):
            self.logged = {**logs, "step": state.global_step}
            assert state.log_history[-1] == self.logged  # those who are asked after the guard see its figures too

    defaults = {"max_grad_norm": 0, "max_steps": STEPS, "per_device_train_batch_size": 8, "save_strategy": "no"}
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "logging_strategy": "no"}
    args = transformers.TrainingArguments(output_dir=str(folder), **{**defaults, **quiet, **options})
    model = model or network()
    optimizer = sgd(model)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    trainer = transformers.Trainer(
        model,
        args,
        train_dataset=Windows(data or batches()),
        optimizers=(optimizer, constant),
        callbacks=[*callbacks, Recorder()],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_trainer_walks_the_same_path(transformers, plain, tmp_path):
    path, callback = Path(), trainer_callback(RULE)
    trainer = train(transformers, tmp_path, path, callback)
    check_same(path, plain)
    assert isinstance(callback, transformers.TrainerCallback)
    assert callback.guard.summary().steps == STEPS
    assert not trainer.optimizer.optimizer._optimizer_step_pre_hooks


def test_trainer_accumulates_before_the_guard_measures(transformers, folded, tmp_path):
    path, callback = Path(), trainer_callback(RULE)
    train(transformers, tmp_path, path, callback, gradient_accumulation_steps=2, per_device_train_batch_size=4)
    check_same(path, folded)


def test_trainer_own_clipping_is_the_same_up_to_the_arithmetic_of_torch(transformers, plain, tmp_path):
    path = Path()
    train(transformers, tmp_path, path, max_grad_norm=RULE.max_norm)
    torch.testing.assert_close(torch.stack(path.weights), torch.stack(plain.weights), rtol=TORCH, atol=TORCH)


def test_trainer_logs_before_and_after(transformers, plain, tmp_path):
    callback = trainer_callback(RULE)
    trainer = train(transformers, tmp_path, Path(), callback, logging_strategy="steps", logging_steps=1)
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["guard/total_norm"] for row in rows] == plain.norms
    assert [row["guard/clip_coef"] for row in rows] == pytest.approx([min(1, 1 / n) for n in plain.norms])
    assert [row["guard/clipped_norm"] for row in rows] == pytest.approx([min(1, n) for n in plain.norms])
    assert rows[-1]["guard/clip_fraction"] == callback.guard.summary().clip_fraction
    assert not any("guard/total_norm" in row for row in trainer.state.log_history if "loss" not in row)


@pytest.mark.parametrize("anew", [False, True])
def test_trainer_resumes_the_guard_with_everything_else(transformers, plain, tmp_path, anew):
    path, callback = Path(), trainer_callback(RULE)
    train(transformers, tmp_path, path, callback, save_strategy="steps", save_steps=25, max_steps=25)
    resumed, checkpoint = trainer_callback(RULE), str(tmp_path / "checkpoint-25")
    written = json.loads((tmp_path / "checkpoint-25" / "trainer_state.json").read_text())
    assert written["stateful_callbacks"]["TrainerGuard"]["attributes"]["saved"] == callback.guard.state_dict()
    options = {"restore_callback_states_from_checkpoint": anew}
    train(transformers, tmp_path, path, resumed, resume=checkpoint, **options)
    check_same(path, plain)
    whole = trainer_callback(RULE)
    train(transformers, tmp_path / "whole", Path(), whole)
    assert resumed.guard.state_dict() == whole.guard.state_dict()
    assert resumed.guard.summary().steps == STEPS


def test_trainer_skips_a_bad_step_and_goes_on(transformers, tmp_path):
    data = batches()
    data[7]["y"] = data[7]["y"] * math.nan
    path, callback = Path(), trainer_callback(RULE)
    train(transformers, tmp_path, path, callback, data=data)
    assert torch.equal(path.weights[7], path.weights[6])
    assert math.isnan(path.norms[7]) and all(map(math.isfinite, path.norms[8:]))
    assert (callback.guard.summary().skipped, callback.guard.summary().steps) == (1, STEPS)


def test_trainer_spreads_a_nan_itself_before_the_guard_can_see_where_it_began(transformers, tmp_path):
    path, callback = Path(), trainer_callback(RULE)
    model = network()
    model.out.bias.register_hook(lambda grad: grad * (math.nan if len(path.norms) == 7 else 1.0))
    seen = []
    model.rnn.weight_hh_l0.register_hook(lambda grad: seen.append(bool(grad.isfinite().all())))
    train(transformers, tmp_path, path, callback, model=model, max_steps=8)
    assert all(seen)
    assert callback.guard.last.nonfinite == tuple(name for name, _ in model.named_parameters())
    assert torch.equal(path.weights[7], path.weights[6])


def test_trainer_turns_a_finite_gradient_whose_squares_overflow_to_nan(transformers, tmp_path):
    path, callback = Path(), trainer_callback(RULE)
    model = network(torch.float32)
    model.out.bias.register_hook(lambda grad: grad * 0 + 1e30)
    train(transformers, tmp_path, path, callback, model=model, data=batches(torch.float32), max_steps=1)
    assert callback.guard.summary().skipped == 1
    assert torch.equal(path.weights[0], flat(network(torch.float32)))


def test_trainer_trains_twice_with_a_guard_for_each(transformers, plain, tmp_path):
    callback, path = trainer_callback(RULE), Path()
    train(transformers, tmp_path, Path(), callback, max_steps=3)
    first = callback.guard
    train(transformers, tmp_path, path, callback)
    check_same(path, plain)
    assert (first.summary().steps, callback.guard.summary().steps) == (3, STEPS)


def test_trainer_clipping_too_is_refused(transformers, tmp_path):
    with pytest.raises(OptionError, match=r"max_grad_norm=1.0(.|\n)*TrainingArguments\(max_grad_norm=0\)"):
        train(transformers, tmp_path, Path(), trainer_callback(RULE), max_grad_norm=1.0)
