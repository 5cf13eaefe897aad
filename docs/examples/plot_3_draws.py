"""
Draws and their spread
======================

`sample` draws single-trial responses. Do they vary as real trials do? A simulated subject answers
this, because its noise is known.
"""

import numpy as np
from matplotlib.figure import Figure

import brainenc

data = brainenc.datasets.simulate_subject(
    n_images=500, n_voxels=200, session_drift=0, random_state=2
)
train, test = data.train_test(0.2, random_state=0)
encoder = brainenc.RidgeEncoder(features=brainenc.GaborPyramid(verbose=False))
encoder.fit(train.images, train.betas)
draws = encoder.sample(test.images, n=200, random_state=0)
draws.shape

# %%
# Draws come first: ``draws.mean(0)`` is the prediction again, up to the noise of 200 draws.

difference = draws.mean(0) - encoder.predict(test.images)
print(f"largest |mean of draws - prediction| / s.d.: {np.abs(difference / draws.std(0)).max():.2f}")

# %%
# The s.d. of draws is estimated from single trials of held-out images, so it contains the trial
# noise *and* the encoder's error. It must therefore lie on or above the line of the true noise, and
# on the line where the encoder is good.

spread_figure = Figure(figsize=(5, 4.2), layout="constrained")
axes = spread_figure.subplots()
noise, spread = data.truth.noise_sd, draws.std(0).mean(0)
axes.scatter(noise, spread, s=10, alpha=0.7)
axes.axline((noise.min(), noise.min()), slope=1, color="grey", lw=1, ls="--")
_ = axes.set(xscale="log", yscale="log", xlabel="true noise s.d.", ylabel="s.d. of draws")

# %%
# Do intervals of the draws have their nominal coverage? Of the held-out single trials, 90 % should
# lie within the 5th and 95th percentile of the draws of their image and voxel.

low, high = np.percentile(draws, [5, 95], axis=0)
trials = test.betas
inside = (trials >= low[:, None]) & (trials <= high[:, None])
coverage = np.where(np.isnan(trials), np.nan, inside)
print(f"coverage of the 90 % interval: {np.nanmean(coverage):.3f}")

coverage_figure = Figure(figsize=(5, 3.4), layout="constrained")
axes = coverage_figure.subplots()
axes.hist(np.nanmean(coverage, axis=(0, 1)), bins=20)
axes.axvline(0.9, color="grey", lw=1, ls="--")
_ = axes.set(xlabel="coverage of the 90 % interval, per voxel", ylabel="voxels")
