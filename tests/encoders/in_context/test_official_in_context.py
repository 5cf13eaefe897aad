"""Checkpoints of the released code: read safely, or refused with the reason."""

import fractions

import numpy as np
import pytest
import synbrain_oracles as oracles
import torch

import brainenc
from brainenc.nets import InContextNet

SIZES = {"width": 20, "depth": 2, "n_heads": 10, "hidden": 7, "n_registers": 3}


def net():
    return oracles.randomised(InContextNet(6, **SIZES), seed=0)


def written(path, weights, **more):
    torch.save({"epoch": 3, "state_dict": weights, **more}, path)
    return path


def test_a_checkpoint_is_a_context_away_from_predictions(tmp_path):
    path = written(tmp_path / "last.ckpt", net().state_dict())
    encoder = brainenc.InContextEncoder.from_official(path, None, device="cpu")
    found = encoder.pretrained.net
    assert SIZES.items() <= found.sizes.items()
    assert found.sizes["n_features"] == 6
    assert not found.sizes["corrects"]
    ours, theirs = found.state_dict(), net().state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 6)), rng.standard_normal((30, 4))
    fitted = encoder.fit(X, y)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    scaled = torch.tensor(((y - y.mean(0)) / y.std(0)).T).float()
    with torch.no_grad():
        weights = net()(torch.tensor(unit).float().expand(4, 30, 6), scaled).numpy().T
    expected = y.mean(0) + y.std(0) * (unit @ weights[:-1] + weights[-1])
    np.testing.assert_allclose(fitted.predict(X), expected, rtol=1e-3, atol=1e-3)
    loaded = brainenc.load(fitted.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(X), fitted.predict(X))
    with pytest.raises(ValueError, match=r"shape \[6\]"):
        encoder.fit(X[:, :5], y)


def without(name):
    def change(weights):
        del weights[name]

    return change


def replaced(name, value):
    def change(weights):
        weights[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("cls_token"), "the weight cls_token is missing"),
        (without("transformer.1.attn.in_proj_weight"), "missing: transformer.1.attn.in_proj_w"),
        (replaced("weight_pred.0.block.7.bias", torch.zeros(9)), r"\(9,\) for \(7,\)"),
        (replaced("cls_token", torch.zeros(3, 20)), "must have 3 dimensions"),
        (replaced("cls_token", torch.zeros(1, 3, 22)), "22 wide, which 10 heads cannot share"),
        (replaced("more", torch.zeros(2)), "unexpected: more"),
        (replaced("early_layers.1.block.0.bias", torch.zeros(2)), "more than one residual"),
        (replaced("cls_token", torch.full((1, 3, 20), torch.nan)), "NaN or infinite"),
        (replaced("cls_token", "text"), "not a dense tensor"),
    ],
)
def test_other_weights_are_refused_with_the_reason(tmp_path, change, message):
    weights = dict(net().state_dict())
    change(weights)
    path = written(tmp_path / "last.ckpt", weights)
    with pytest.raises(ValueError, match=rf"last.ckpt cannot be read as .*{message}"):
        brainenc.InContextEncoder.from_official(path)


def test_a_file_with_code_or_of_another_kind_is_refused(tmp_path):
    path = written(tmp_path / "a.ckpt", net().state_dict(), epoch=fractions.Fraction(1, 2))
    with pytest.raises(ValueError, match=r"fractions.Fraction, which is not data"):
        brainenc.InContextEncoder.from_official(path)
    torch.save({"model": net().state_dict()}, tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match="no weights 'state_dict'; its keys are model"):
        brainenc.InContextEncoder.from_official(tmp_path / "b.ckpt")
    (tmp_path / "c.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"c\.ckpt cannot be read"):
        brainenc.InContextEncoder.from_official(tmp_path / "c.ckpt")
    with pytest.raises(FileNotFoundError, match=r"d\.ckpt"):
        brainenc.InContextEncoder.from_official(tmp_path / "d.ckpt")
