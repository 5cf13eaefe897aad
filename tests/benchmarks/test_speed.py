"""The speed benchmark: measuring, its table, and steps that are what training takes."""

import argparse
import json
import sys
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import REPOSITORY

from brainenc.encoders.synbrain import stages
from brainenc.nets import S2N, BrainVAE
from brainenc.training import Examples, TrainingSettings, train

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import measuring
import scaling
import speed
import speed_sampling
import speed_startup
import speed_training

SIZES = {"voxels": 60, "tokens": (4, 16), "mapper": {"depth": 1, "n_heads": 2}}


def nets():
    torch.manual_seed(0)
    vae = BrainVAE(*SIZES["tokens"], **speed_training.TINY["vae"])
    return vae.eval(), S2N(*SIZES["tokens"], **SIZES["mapper"])


def test_a_measurement_ends_at_the_deadline():
    started = time.monotonic()
    with measuring.deadline(1):
        assert "sleep took longer" in measuring.measure(time.sleep, 60)["error"]
    assert time.monotonic() - started < 30
    with measuring.deadline(0):
        assert "no time left" in measuring.measure(time.sleep, 0)["error"]


def test_what_fails_is_in_its_row_before_a_deadline_and_an_error_without_one():
    with pytest.raises(RuntimeError, match="must be non-negative"):
        measuring.measure(time.sleep, -1)
    ours = {"s": 2.0, "CPU s": 2.0, "peak GiB": 1.0}
    with measuring.deadline(60):
        failed = measuring.measure(time.sleep, -1)
    found = measuring.row("work", "size", ours, failed)
    assert found["s"] == 2
    assert np.isnan([found["other s"], found["s ratio"]]).all()
    assert "ValueError: sleep length must be non-negative" in found["other error"]


def test_works_are_measured_in_turn_and_their_medians_are_shown():
    done, times = [], {"a": iter([1.0, 9.0, 2.0]), "b": iter([5.0, 4.0, 8.0])}

    def work(name):
        done.append(name)
        return {"s": next(times[name])}

    with measuring.deadline(60, processes=False):
        assert measuring.in_turn(3, (work, "a"), (work, "b")) == [{"s": 2.0}, {"s": 5.0}]
    assert done == ["a", "b"] * 3


def test_ratios_are_the_others_over_ours():
    ours, theirs = ({"s": s, "CPU s": s, "peak GiB": 2 * s} for s in (2.0, 6.0))
    found = measuring.row("work", "size", ours, theirs)
    assert found["s ratio"] == found["CPU s ratio"] == found["peak GiB ratio"] == 3
    assert found["other s"] == 6


def test_earlier_rows_of_other_work_are_kept(tmp_path):
    arguments = argparse.Namespace(out=tmp_path)
    for work, seconds in [("a", 1.0), ("b", 2.0), ("a", 3.0)]:
        speed.write([{"group": "ridge", "work": work, "size": "1", "s": seconds}], arguments)
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert {row["work"]: row["s"] for row in rows} == {"a": 3.0, "b": 2.0}
    table = pd.read_csv(tmp_path / "speed_ridge.csv")
    assert list(table.columns) == ["work", "size", "s"]
    assert dict(zip(table["work"], table["s"], strict=True)) == {"a": 3.0, "b": 2.0}


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("without_fabric", [False, True])
def test_steps_are_those_of_the_training(precision, without_fabric, monkeypatch):
    """Timed steps, with Fabric or what stands in for it, against the loop of the package."""
    if without_fabric:
        monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    tokens, betas = speed_training.made_up(SIZES, 4)
    target = np.random.default_rng(0).standard_normal(tokens.shape, dtype=np.float32)
    vae, mapper = nets()
    arrays = {"tokens": tokens, "betas": betas, "target": target}
    step = speed_training.our_steps("mapper", vae, mapper, "cpu", precision, n_steps=5)
    losses = [step(arrays) for _ in range(5)]
    monkeypatch.undo()
    vae, again = nets()
    settings = TrainingSettings(
        **{"n_steps": 5, "report_every": 1, "learning_rate": 1e-4, "precision": precision},
        **{"ema_decay": 0.9999, "clip_norm": 1.0, "batch_size": 4},
    )
    result = train(again, stages.mapper_loss(vae), Examples(**arrays), settings, device="cpu")
    # A batch is all examples, in another order: rounding, of bf16 (8 bits) or of float32.
    rtol = 1e-2 if precision == "bf16" else 1e-5
    np.testing.assert_allclose(losses, result.history["loss"], rtol=rtol)
    assert losses[-1] < losses[0]
    for name, weight in mapper.state_dict().items():
        # Adam moves each weight by 1e-4 a step at most, whatever the gradient's rounding.
        torch.testing.assert_close(weight, result.last[name], rtol=0, atol=6e-4)


def test_chains_run_the_prior_in_every_step():
    sizes = {**speed_training.TINY, "images": 2}
    sampler, tokens = speed_sampling.make_sampler(sizes, 2, "cpu")
    asked = []
    sampler.prior.register_forward_hook(lambda *_: asked.append(1))
    draws = replace(sampler, n_sampling_steps=7).draw(
        tokens, None, 3, lambda: np.random.default_rng(0)
    )
    assert draws.shape == (3, 2, sizes["voxels"])
    assert len(asked) == 7


def test_exponents_of_known_growth():
    size = np.array([1.0, 2.0, 4.0, 8.0])
    points = pd.DataFrame(
        {
            "encoder": "a",
            "axis": "voxels",
            "size": size,
            "CPU s": 3 * size**1.5,
            "MiB": 5 + 0 * size,
        }
    )
    found = scaling.exponents_of(points).iloc[0]
    assert found["CPU s"] == pytest.approx(1.5)
    assert found["MiB"] == pytest.approx(0, abs=1e-12)
    assert np.isnan(scaling.exponents_of(points.assign(MiB=0.0)).iloc[0]["MiB"])


def test_points_of_every_encoder_and_axis(monkeypatch):
    def fit(encoder, sizes):
        seconds = float(np.prod(list(sizes.values())))
        return {"s": seconds, "CPU s": seconds, "MiB": 1.0}

    monkeypatch.setattr(scaling, "measure", lambda work, *args: fit(*args))
    points = scaling.measured_points()
    assert (points.groupby(["encoder", "axis"]).size() == len(scaling.FACTORS)).all()
    # Only the size of the axis changes, so made-up times in proportion to all have exponent 1.
    np.testing.assert_allclose(scaling.exponents_of(points)["CPU s"], 1)


def test_start_up_and_overhead_are_measured_in_rows():
    arguments = speed.parse_arguments(["startup", "--quick", "--rounds", "1", "--voxels", "400"])
    with measuring.deadline(60, processes=False):
        first, shown, report, overhead = speed_startup.startup(arguments)
    assert first["work"].startswith("start-up: import and first fit")
    assert first["CPU s"] > shown["CPU s"] > 0  # it imports torch, and help does not
    assert report["s"] > 0
    # Both parts of one benchmark: the fits, and the rest.
    assert overhead["other s"] > 0
    assert overhead["s ratio"] == overhead["other s"] / overhead["s"]
