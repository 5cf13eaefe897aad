"""Fits that learning_curve keeps in `out` are those of the same data, atlases and sessions."""

import numpy as np
import pandas as pd
import pytest

import brainenc
from brainenc import Transfer, learning_curve
from brainenc.datasets import simulate_subjects

QUICK = {"n_bootstraps": 20, "n_draws": 1, "verbose": False, "references": False}


@pytest.fixture(scope="module")
def subjects():
    return simulate_subjects(2, 160, 40, shared_images=0)


def relabelled(data):
    """The voxels' ROIs in another order."""
    roi = np.random.default_rng(5).permutation(data.voxels["roi"].to_numpy())
    return replace_table(data, voxels=data.voxels.assign(roi=pd.Categorical(roi)))


def replace_table(data, **tables):
    given = {"voxels": data.voxels, "trials": data.trials, "stimuli": data.stimuli} | tables
    return brainenc.EncodingData(data.images, data.betas, name=data.name, **given)


def r_of(curve):
    return curve.scores.query("roi == 'all'")["r"].to_numpy()


@pytest.mark.parametrize("whose", ["new", "source"])
@pytest.mark.parametrize(
    "transfer",
    [
        Transfer(brainenc.RidgeEncoder(), "group-mean"),
        Transfer(brainenc.RidgeEncoder(), "prior", rois=True),
    ],
    ids=lambda transfer: transfer.how,
)
def test_other_rois_are_fitted_anew(subjects, tmp_path, transfer, whose):
    new, source = (replace_table(d) for d in subjects)
    features = {d.name: d.truth.tokens for d in subjects}
    given = {"sizes": [40], "features": features, **QUICK}
    methods = {"m": transfer}
    first = learning_curve(new, methods, sources=[source], out=tmp_path / "out", **given)
    if whose == "new":
        new = relabelled(new)
    else:
        source = relabelled(source)
    again = learning_curve(new, methods, sources=[source], out=tmp_path / "out", **given)
    alone = learning_curve(new, methods, sources=[source], **given)
    np.testing.assert_array_equal(r_of(again), r_of(alone))
    assert r_of(again) != r_of(first)


def test_other_sessions_are_fitted_anew(subjects, tmp_path):
    new = replace_table(subjects[0])
    given = {"sizes": [1, 2], "unit": "sessions", "features": subjects[0].truth.tokens, **QUICK}
    methods = {"ridge": brainenc.RidgeEncoder()}
    first = learning_curve(new, methods, out=tmp_path / "out", **given)
    sessions = np.random.default_rng(2).permutation(new.trials["session"].to_numpy())
    new = replace_table(new, trials=new.trials.assign(session=sessions))
    again = learning_curve(new, methods, out=tmp_path / "out", **given)
    np.testing.assert_array_equal(r_of(again), r_of(learning_curve(new, methods, **given)))
    assert (r_of(again) != r_of(first)).all()


def test_another_fitted_encoder_is_adapted_anew(subjects, tmp_path):
    new, source = subjects
    given = {"sizes": [40], "features": new.truth.tokens, "out": tmp_path / "out", **QUICK}
    X, ridge = source.truth.tokens, brainenc.RidgeEncoder
    one, two = (ridge().fit(X, betas) for betas in (source.betas, source.betas[::-1]))
    first = learning_curve(new, {"ridge": one}, **given)
    again = learning_curve(new, {"ridge": two}, **given)
    alone = learning_curve(new, {"ridge": two}, **(given | {"out": None}))
    np.testing.assert_array_equal(r_of(again), r_of(alone))
    assert r_of(again) != r_of(first)
    one.sample(X[:2], n=1)  # makes its noise model, and changes no weights
    files = set((tmp_path / "out" / "fits").iterdir())
    learning_curve(new, {"ridge": one}, **given)
    assert set((tmp_path / "out" / "fits").iterdir()) == files
