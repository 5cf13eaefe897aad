"""
Which voxels prefer a concept
=============================

Which voxels prefer faces, places or bodies? `localize` predicts responses to images that were never
shown with a fitted encoder, and tests the images of a concept against the rest. For a simulated
subject the result can be compared with the truth.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import brainenc

# %%
# Ridge is fitted on 600 images. Another 600 are used for localisation, without their betas.

data = brainenc.datasets.simulate_subject(n_images=1200, n_voxels=500, random_state=7)
tokens, truth, roi = data.truth.tokens, data.truth, data.voxels["roi"].to_numpy()
fit, new = np.arange(600), np.arange(600, 1200)
encoder = brainenc.RidgeEncoder(features=None).fit(tokens[fit], data.betas[fit])

concepts = {"face": "FFA", "place": "PPA", "body": "EBA"}
masks = {name: truth.category[new] == name for name in concepts}
maps = {name: brainenc.localize(encoder, tokens[new], mask) for name, mask in masks.items()}
maps

# %%
# The truth is the noiseless difference between the concept and the rest, in s.d. of a single trial.
# *Sensitivity* is the share of an area's voxels that are found. *Wrong* is the share of the voxels
# found whose true difference is zero or negative, *small* the share whose true difference is below
# .1, the default of `min_effect`. The last two columns are for the test without a smallest effect.

trial_sd = np.sqrt(truth.signal.var(axis=0) + truth.noise_sd**2)


def true_effect(mask):
    signal = truth.signal[new]
    return (signal[mask].mean(axis=0) - signal[~mask].mean(axis=0)) / trial_sd


rows = {}
for name, area in concepts.items():
    effect, found = true_effect(masks[name]), maps[name].significant
    tested = brainenc.localize(encoder, tokens[new], masks[name], min_effect=0).significant
    rows[f"{name} ({area})"] = {
        "images": masks[name].sum(),
        "voxels found": found.sum(),
        "sensitivity": found[roi == area].mean(),
        "wrong": (effect[found] <= 0).mean(),
        "small": (effect[found] < 0.1).mean(),
        "test alone: found": tested.sum(),
        "test alone: wrong": (effect[tested] <= 0).mean(),
    }
pd.DataFrame(rows).T.astype({"images": int, "voxels found": int, "test alone: found": int}).round(3)

# %%
# The test alone finds more voxels, and for faces and bodies more of them are wrong than the .05
# that the false discovery rate allows. The test is conditional on the encoder: errors of the
# encoder do not average out over images.

figure = Figure(figsize=(8.6, 3.3), layout="constrained")
for axes, name in zip(figure.subplots(1, 3, sharex=True, sharey=True), concepts, strict=True):
    found = maps[name].significant
    for where, color in ((~found, "#b8c0c8"), (found, "#0072B2")):
        axes.scatter(true_effect(masks[name])[where], maps[name].effect[where], s=7, color=color)
    axes.axline((0, 0), slope=1, color="grey", lw=1, ls="--")
    axes.set(title=f"{name}: {concepts[name]}", xlabel="true effect (z)")
_ = figure.axes[0].set_ylabel("effect according to ridge (z)")

# %%
# Effects are smaller than the true ones, because ridge shrinks its predictions. A map can be
# written as a table or a volume.

maps["face"].table(data.voxels).query("significant").head()

# %%
# .. code-block:: python
#
#    maps["face"].to_csv("faces.csv", data.voxels)
#    maps["face"].to_nifti(data.voxels, "faces.nii.gz", value="t", affine=affine)
