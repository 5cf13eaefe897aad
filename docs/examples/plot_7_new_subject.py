"""
A new subject with few images
=============================

From two ``.brain`` folders: the weights of one subject's voxels are a prior for those of another,
of whom there are few images. The guide is :doc:`/new_subjects`.
"""

import tempfile
from pathlib import Path

from matplotlib.figure import Figure

import brainenc

folder = Path(tempfile.mkdtemp())
for i, data in enumerate(brainenc.datasets.simulate_subjects(2, 300, 40, shared_images=0)):
    data.save(folder / f"subj0{i + 1}.brain")

other = brainenc.EncodingData.load(folder / "subj01.brain")
new = brainenc.EncodingData.load(folder / "subj02.brain")
new

# %%
# A prior, and a fit
# ------------------
#
# No images are shared, and the numbers of voxels may differ: features are the link.

features = brainenc.GaborPyramid(verbose=False)
prior = brainenc.WeightPrior.fit([other], features)
encoder = brainenc.RidgeEncoder(features, prior=prior).fit(new.images[:50], new.betas[:50])
scratch = brainenc.RidgeEncoder(features).fit(new.images[:50], new.betas[:50])
{
    "prior": encoder.score(new.images[200:], new.betas[200:]),
    "scratch": scratch.score(new.images[200:], new.betas[200:]),
}

# %%
# The learning curve
# ------------------
#
# Nested subsets of the new subject's images, one fixed test set. ``curve.worth`` says how many
# images from scratch each method is worth.

curve = brainenc.learning_curve(
    new,
    {"ridge": brainenc.RidgeEncoder(features)},
    sources=[other],
    sizes=(25, 50, 100, 200),
    n_draws=2,
    n_bootstraps=200,
    verbose=False,
)
figure = Figure(figsize=(6, 3.6), layout="constrained")
axes = figure.subplots()
for name, own in curve.summary.groupby("encoder", sort=False):
    axes.plot(own["size"], own["r"], "o-", label=name)
    axes.fill_between(own["size"], own["low"], own["high"], alpha=0.15, lw=0)
axes.set(xscale="log", xticks=curve.summary["size"].unique(), xlabel="images", ylabel="mean r")
axes.xaxis.set_major_formatter("{x:.0f}")
axes.legend(frameon=False)
figure

# %%
# In images from scratch:

curve.worth
