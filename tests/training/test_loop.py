import copy
import math
import os
import random

import numpy as np
import pytest
import torch
import training_problem
from torch import nn

from brainenc.training import Examples, TrainingError, TrainingSettings, train

N = 64


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, 4)).astype(np.float32)
    y = (x @ rng.standard_normal((4, 3)) + 0.5).astype(np.float32)
    return x, y


def linear(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(4, 3)


def squared_error(module, batch):
    return {"loss": ((module(batch["x"]) - batch["y"]) ** 2).mean()}


class Recorded:
    """A loss that remembers its batches and the weights it was asked at."""

    def __init__(self, loss=squared_error):
        self.loss, self.batches, self.weights = loss, [], []

    def __call__(self, module, batch):
        self.batches.append((batch["x"].clone(), batch["y"].clone()))
        self.weights.append(copy.deepcopy(module.state_dict()))
        return self.loss(module, batch)


def fitted(data, loss=squared_error, module=None, **settings):
    options = {
        key: settings.pop(key)
        for key in ("evaluate", "stop", "parameters", "ema", "device")
        if key in settings
    }
    module = module if module is not None else linear()
    settings = {"n_steps": 20, "batch_size": 16, "learning_rate": 0.01, **settings}
    examples = Examples(x=data[0], y=data[1])
    result = train(
        module, loss, examples, TrainingSettings(**settings), **{"device": "cpu", **options}
    )
    return module, result


def by_hand(batches, optimizer_class, clip_norm=None, **options):
    """A training loop as in any tutorial."""
    module = linear()
    optimizer = optimizer_class(module.parameters(), **options)
    trajectory, losses = [copy.deepcopy(module.state_dict())], []
    for x, y in batches:
        optimizer.zero_grad()
        loss = ((module(x) - y) ** 2).mean()
        loss.backward()
        if clip_norm:
            norm = torch.cat([p.grad.ravel() for p in module.parameters()]).norm()
            for parameter in module.parameters():
                parameter.grad *= min(1.0, clip_norm / float(norm))
        optimizer.step()
        losses.append(loss.item())
        trajectory.append(copy.deepcopy(module.state_dict()))
    return trajectory, losses


def assert_close(ours, theirs, **tolerance):
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, **tolerance)


@pytest.mark.parametrize(
    ("name", "optimizer_class"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)]
)
def test_the_trajectory_is_that_of_a_loop_by_hand(data, name, optimizer_class):
    loss = Recorded()
    options = {"weight_decay": 0.3, "betas": (0.8, 0.99)}
    module, result = fitted(data, loss, optimizer=name, weight_decay=0.3, adam_betas=(0.8, 0.99))
    trajectory, losses = by_hand(loss.batches, optimizer_class, lr=0.01, fused=True, **options)
    for ours, theirs in zip([*loss.weights, module.state_dict()], trajectory, strict=True):
        assert_close(ours, theirs, rtol=0, atol=0)
    # Not fused rounds elsewhere: a few float32 roundings in 20 steps.
    slow, _ = by_hand(loss.batches, optimizer_class, lr=0.01, fused=False, **options)
    assert_close(module.state_dict(), slow[-1], rtol=1e-5, atol=1e-6)
    # 64 examples in batches of 16: a row every 4 steps, with the mean of their losses.
    assert result.history["step"].tolist() == [4, 8, 12, 16, 20]
    assert result.history["epoch"].tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(
        result.history["loss"], np.reshape(losses, (5, 4)).mean(1), rtol=1e-6
    )
    assert (result.kept, result.stopped, result.n_steps) == ("last", "end", 20)


def test_clipping_scales_the_whole_gradient(data):
    loss = Recorded()
    # Adam forgets the scale of a gradient, but not that of one step against another: the clipped
    # first gradients (norm about 4) count less among later ones.
    module, result = fitted(data, loss, clip_norm=2.0)
    trajectory, _ = by_hand(
        loss.batches, torch.optim.AdamW, clip_norm=2.0, lr=0.01, weight_decay=0.0
    )
    assert result.history["grad_norm"].iloc[0] > 2  # the norm before clipping
    assert_close(module.state_dict(), trajectory[-1], rtol=1e-5, atol=1e-6)
    unclipped, _ = by_hand(loss.batches, torch.optim.AdamW, lr=0.01, weight_decay=0.0)
    assert (module.weight - unclipped[-1]["weight"]).abs().max() > 1e-4


def test_the_moving_average_is_the_weighted_sum_of_the_trajectory(data):
    loss, decay = Recorded(), 0.9
    module, result = fitted(data, loss, ema_decay=decay)
    trajectory = [*loss.weights, result.last]  # weights after 0, 1, ... 20 steps
    powers = [decay**20] + [(1 - decay) * decay ** (20 - step) for step in range(1, 21)]
    for name in trajectory[0]:
        expected = sum(p * w[name].double() for p, w in zip(powers, trajectory, strict=True))
        torch.testing.assert_close(result.ema[name].double(), expected, rtol=1e-5, atol=1e-6)
    assert result.kept == "ema"
    assert_close(module.state_dict(), result.ema, rtol=0, atol=0)


def test_the_moving_average_can_start_elsewhere(data):
    start = {name: value + 1 for name, value in linear().state_dict().items()}
    _, plain = fitted(data, ema_decay=0.9)
    _, moved = fitted(data, ema_decay=0.9, ema=start)
    for name in start:
        torch.testing.assert_close(moved.ema[name], plain.ema[name] + 0.9**20)


def test_only_the_chosen_parameters_learn_each_at_its_rate(data):
    start = linear().state_dict()
    module = linear()
    fitted(data, module=module, parameters=[module.bias], weight_decay=0.1)
    assert torch.equal(module.weight, start["weight"])
    assert not torch.equal(module.bias, start["bias"])
    assert module.weight.requires_grad
    assert module.weight.grad is None
    # The first step of Adam is the learning rate long, whatever the gradient.
    module = linear()
    groups = [{"params": [module.weight], "lr": 1e-4}, {"params": [module.bias]}]
    fitted(data, module=module, parameters=groups, n_steps=1)
    torch.testing.assert_close(
        (module.weight - start["weight"]).abs(), torch.full((3, 4), 1e-4), rtol=1e-2, atol=0
    )
    torch.testing.assert_close((module.bias - start["bias"]).abs(), torch.full((3,), 0.01))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_weights_are_kept_and_patience_counts_from_them(data, mode):
    scores = [3, 2, 2.5, float("nan"), 1, 1, 4, 2, 0, 0]  # of step 0, 2, 4, ...
    sign = 1 if mode == "min" else -1
    seen, answers = [], iter(scores)

    def evaluate(module):
        assert not module.training
        assert not torch.is_grad_enabled()
        seen.append(copy.deepcopy(module.state_dict()))
        return {"score": sign * next(answers)}

    module, result = fitted(
        data, evaluate=evaluate, monitor="score", mode=mode, patience=3, report_every=2
    )
    # The best is the fifth; an equal one is no better; three later the training stops.
    assert (result.best_step, result.n_steps, result.stopped) == (8, 14, "patience")
    assert result.kept == "best"
    assert_close(module.state_dict(), seen[4], rtol=0, atol=0)
    assert not torch.equal(result.last["weight"], module.weight)
    np.testing.assert_array_equal(result.history["score"], sign * np.array(scores[:8]))
    assert not module.training


def test_evaluation_sees_the_moving_average_and_leaves_the_weights(data):
    seen = []

    def evaluate(module):
        seen.append(copy.deepcopy(module.state_dict()))
        return {"score": 0.0}

    loss = Recorded()
    _, watched = fitted(data, loss, ema_decay=0.5, evaluate=evaluate, report_every=20)
    _, alone = fitted(data, ema_decay=0.5)
    assert_close(seen[-1], watched.ema, rtol=0, atol=0)
    assert_close(watched.last, alone.last, rtol=0, atol=0)


def test_a_relative_threshold_on_the_training_loss_stops(data):
    variance = data[1].var(axis=0).mean()
    _, result = fitted(
        data, n_steps=4000, learning_rate=0.05, stop=lambda row: row["loss"] < 0.28 * variance
    )
    _, full = fitted(data, n_steps=4000, learning_rate=0.05, report_every=4)
    first = full.history.loc[full.history["loss"] < 0.28 * variance, "step"].iloc[0]
    assert (result.stopped, result.n_steps) == ("stop", first)
    assert result.n_steps < 4000


def test_the_weights_before_a_bad_step_stay(data):
    def loss(module, batch):
        losses = squared_error(module, batch)
        return {"loss": losses["loss"] * (math.nan if batch.step == 9 else 1)}

    module, (_, good) = linear(), fitted(data, n_steps=9)
    with pytest.raises(
        TrainingError, match=r"loss, grad_norm not finite in step 10 of 20.*step 9\."
    ):
        fitted(data, loss, module=module)
    assert_close(module.state_dict(), good.last, rtol=0, atol=0)
    assert module.weight.grad is None


def test_a_gradient_that_is_not_finite_is_no_step_either(data):
    def loss(module, batch):  # sqrt has a finite value and an infinite slope at 0
        return {"loss": squared_error(module, batch)["loss"] + (module.bias * 0).sqrt().sum()}

    module = linear()
    with pytest.raises(TrainingError, match="grad_norm not finite in step 1 of 20"):
        fitted(data, loss, module=module)
    assert_close(module.state_dict(), linear().state_dict(), rtol=0, atol=0)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    first, again = training_problem.run(), training_problem.run()
    other = training_problem.run(settings={"random_state": 4})
    assert all(torch.equal(value, again["last"][name]) for name, value in first["last"].items())
    assert not torch.equal(first["last"]["mapper.weight"], other["last"]["mapper.weight"])


def test_nothing_global_changes():
    training_problem.run()  # the first one imports what it needs
    torch.manual_seed(11), np.random.seed(11), random.seed(11)  # noqa: NPY002
    before = (
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),  # noqa: NPY002
        random.getstate(),
        dict(os.environ),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.is_grad_enabled(),
    )
    training_problem.run()
    after = (
        torch.get_rng_state().tolist(),
        str(np.random.get_state()),  # noqa: NPY002
        random.getstate(),
        dict(os.environ),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.is_grad_enabled(),
    )
    assert before == after


def test_bf16_rounds_products_and_neither_weights_nor_targets(data):
    dtypes = set()

    def loss(module, batch):
        predicted = module(batch["x"])
        dtypes.add((predicted.dtype, batch["y"].dtype, module.weight.dtype))
        return {"loss": ((predicted.float() - batch["y"]) ** 2).mean()}

    _, rounded = fitted(data, loss, precision="bf16")
    _, exact = fitted(data, precision="32")
    assert dtypes == {(torch.bfloat16, torch.float32, torch.float32)}
    difference = (rounded.history["loss"] / exact.history["loss"] - 1).abs().max()
    assert 0 < difference < 2**-7  # bf16 has 8 bits


def test_a_silent_training_prints_nothing(data, capfd):
    fitted(data)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": None}, "n_epochs=None and n_steps=None"),
        ({"n_epochs": 3}, "n_epochs=3 and n_steps=20"),
        ({"batch_size": 0}, "batch_size=0 must be 1 or more"),
        ({"learning_rate": math.nan}, "learning_rate=nan must be more than 0"),
        ({"clip_norm": 0}, "clip_norm=0 must be more than 0"),
        ({"ema_decay": 1.0}, "ema_decay=1.0 must be at least 0 and less than 1"),
        ({"optimizer": "sgd"}, "optimizer='sgd' must be one of 'adamw', 'adam'"),
        ({"precision": "16"}, "precision='16' must be one of"),
        ({"patience": 3}, "patience=3 needs monitor"),
        ({"monitor": "r"}, "monitor='r' needs evaluate"),
        ({"monitor": "r", "evaluate": lambda module: {"mse": 1}}, "monitor='r' is not among"),
        ({"evaluate": lambda module: {"loss": 1}}, r"evaluate gives \['loss'\]"),
        ({"ema": {}}, "ema_decay is None"),
        ({"parameters": []}, "has none to train"),
        ({"parameters": [nn.Parameter(torch.zeros(1))]}, "1 of the parameters to train are not"),
        ({"device": "tpu"}, "device='tpu' is not one of"),
        ({"loss": lambda m, b: {"loss": (m(b["x"]) - b["y"]).mean(1)}}, r"'loss': \(16,\)"),
    ],
)
def test_what_does_not_fit_is_said_by_name(data, settings, message):
    with pytest.raises(ValueError, match=message):
        fitted(data, **settings)


def test_a_loss_must_be_a_dict(data):
    with pytest.raises(TypeError, match='must return a dict with the key "loss"'):
        fitted(data, lambda module, batch: module(batch["x"]).mean())
