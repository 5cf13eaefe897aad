"""
Compare representations
=======================

Which model has the geometry of which areas? Distances between images are compared in three ways,
with permuted images as the null, and then as Brain-Score does.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import brainenc
from brainenc import metrics

# %%
# A simulated subject, and two models of its areas: local orientation, and the tokens that its
# responses are made of.

data = brainenc.datasets.simulate_subject(n_images=120, n_voxels=200, random_state=2)
averages = data.average_repeats().betas[:, 0]
label = data.voxels["roi"].to_numpy()
high = np.isin(label, ["FFA", "PPA", "EBA"])
areas = {"early": ~high, "high": high}
features = {
    "Gabor": brainenc.GaborPyramid(verbose=False).fit_transform(data.images),
    "tokens": data.truth.tokens.reshape(data.n_images, -1),
}

# %%
# Distances of all pairs of images, of areas and of models.

of_areas = {name: metrics.rdm(averages[:, voxels]) for name, voxels in areas.items()}
of_models = {name: metrics.rdm(X) for name, X in features.items()}
order = np.argsort(data.truth.category, kind="stable")
figure, axes = plt.subplots(1, 4, figsize=(8.6, 2.4))
for axis, (name, rdm) in zip(axes, (of_areas | of_models).items(), strict=True):
    axis.imshow(rdm[np.ix_(order, order)])
    axis.set_title(name)
    axis.axis("off")

# %%
# Rank correlations of the distances as they are, of the geo-topological transform, which ignores
# how small small distances are and how large large ones, and along the graph of near images.

ways = {
    "distances": lambda rdm: rdm,
    "geo-topological": lambda rdm: metrics.geotopological(rdm, 0.2, 0.8),
    "geodesic": lambda rdm: metrics.geodesic(rdm, 0.3),
}
permuted = np.random.default_rng(0).permutation(data.n_images)
rows = []
for way, change in ways.items():
    for model, own in of_models.items():
        null = own[np.ix_(permuted, permuted)]
        for name, rdm in ((model, own), (f"{model}, permuted", null)):
            for area, measured in of_areas.items():
                r = metrics.rdm_correlation(change(rdm), change(measured))
                rows.append((way, name, area, r))
table = pd.DataFrame(rows, columns=["way", "model", "area", "correlation"])
table.pivot_table("correlation", ["way", "model"], "area", sort=False).round(2)

# %%
# How much of the distances of an area does each model explain that the other does not?

unique = {name: metrics.rdm_regression(rdm, of_models) for name, rdm in of_areas.items()}
pd.DataFrame({name: {"R²": found.r2, **found.unique} for name, found in unique.items()}).round(3)

# %%
# Distances weigh all features equally. An encoder finds the features that matter for a voxel. This
# is Brain-Score's protocol: partial least squares, ten random splits, and the median over voxels of
# r², relative to the reliability of the responses.

pls = brainenc.PLSEncoder(None, n_components=25, standardize=False, cv=2)
scored = brainenc.benchmark(
    data,
    dict.fromkeys(features, pls),
    features=features,
    protocol="brain-score",
    n_draws=0,
    n_bootstraps=20,
    n_permutations=20,
    references=False,
    verbose=False,
)
rois = scored.rois[scored.rois["roi"].isin(["V1v", "V1d", "hV4", "FFA", "PPA", "EBA"])]
axis = rois.pivot(index="roi", columns="encoder", values="brain_score").plot.bar(
    rot=0, figsize=(5, 3), ylabel="brain_score"
)
_ = axis.legend(frameon=False)
