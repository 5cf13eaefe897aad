"""
First fit, and how good it could be
===================================

Fit ridge regression on Gabor energy to a simulated subject, predict held-out images, and compare
the score of every voxel with its noise ceiling.
"""

import numpy as np
from matplotlib.figure import Figure

import brainenc
from brainenc.metrics import correlation

data = brainenc.datasets.simulate_subject(n_images=400, n_voxels=300, random_state=0)
data

# %%
# The split is by image: all repeats of an image go to one side.

train, test = data.train_test(0.2, random_state=0)
encoder = brainenc.RidgeEncoder(features=brainenc.GaborPyramid(verbose=False))
encoder.fit(train.images, train.betas)
predictions = encoder.predict(test.images)
predictions.shape

# %%
# Pearson's r across the held-out images, against responses averaged over repeats. The ceiling is
# what a perfect model would reach against the same averages. The object holds the number of trials
# averaged (about three) and its space; dividing a score in another space by it is an error.

responses = test.average_repeats().betas[:, 0]
r = correlation(predictions, responses)
ceiling = data.noise_ceiling().to("r")
print(f"mean r {np.mean(r):.3f}, mean ceiling {np.mean(ceiling.values):.3f}")
print(f"trials averaged: {ceiling.n_trials:.2f}, estimated from {ceiling.estimator}")

# %%
# Early voxels come nearer to their ceiling than high-level ones, because Gabor energy does not
# encode faces and places. Single voxels above the line are chance: with 80 test images, the
# standard error of r is about 0.1.

figure = Figure(figsize=(5.5, 4.6), layout="constrained")
axes = figure.subplots()
for label, rois in {
    "early": ("V1", "V2", "V3", "hV4"),
    "high-level": ("FFA", "PPA", "EBA"),
}.items():
    here = data.voxels["roi"].str.startswith(rois)
    axes.scatter(ceiling.values[here], r[here], s=12, alpha=0.7, label=label)
axes.axline((0, 0), slope=1, color="grey", lw=1, ls="--")
axes.set(xlabel="noise ceiling of r", ylabel="r on held-out images")
_ = axes.legend(frameon=False)

# %%
# Divide by the ceiling only in voxels with enough signal. Nothing is clipped.

usable = ceiling.values >= 0.2
normalized = ceiling.normalize(r, space="r")[usable]
print(f"mean r / ceiling {normalized.mean():.3f} over {usable.sum()} of {len(r)} voxels")
