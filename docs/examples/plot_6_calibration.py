"""
Are the draws calibrated?
=========================

A draw should be a single trial that could have been measured. This page compares draws of ridge
with held-out trials of a simulated subject, whose true distribution is known, in spread and in
distance.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import brainenc
from brainenc import metrics

data = brainenc.datasets.simulate_subject(
    n_images=500, n_voxels=100, session_drift=0, missing=0, random_state=3
)
fit, held_out = np.arange(350), np.arange(350, 500)
tokens, trials = data.truth.tokens, data.betas[held_out]
encoder = brainenc.RidgeEncoder(features=None).fit(tokens[fit], data.betas[fit])
draws = encoder.sample(tokens[held_out], n=100, random_state=0)
draws.shape, trials.shape

# %%
# Draws and trials
# ----------------
#
# The voxel of highest signal-to-noise ratio, image by image: the bands hold the central 50 and 90 %
# of the draws, the dots are the three trials. About one dot in ten should lie outside.

ncsnr = data.truth.ncsnr
voxel = int(ncsnr.argmax())
order = np.median(draws[:, :60, voxel], axis=0).argsort()
quantiles = np.percentile(draws[:, order, voxel], [5, 25, 50, 75, 95], axis=0)

fan = Figure(figsize=(7, 3.2), layout="constrained")
axes, x = fan.subplots(), np.arange(60)
axes.fill_between(x, quantiles[0], quantiles[4], color="#0072B2", alpha=0.2, lw=0)
axes.fill_between(x, quantiles[1], quantiles[3], color="#0072B2", alpha=0.35, lw=0)
axes.plot(x, quantiles[2], color="#0072B2")
axes.plot(x, trials[order, :, voxel], ".", color="#52606d", ms=4)
_ = axes.set(xlabel="held-out images, by median of draws", ylabel="response", xticks=[])

# %%
# Calibration curve
# -----------------
#
# The rank of a trial among its 100 draws is equally likely to be any of 0 … 100 if both come from
# one distribution. From the ranks come the coverage of every central interval and the PIT
# histogram. Draws with half the spread show what failure looks like.

prediction = encoder.predict(tokens[held_out])
narrow = prediction + 0.5 * (draws - prediction)
levels = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95])

calibration = Figure(figsize=(8, 3.4), layout="constrained")
curve, pit = calibration.subplots(1, 2)
for label, drawn, color in (("draws", draws, "#0072B2"), ("half the spread", narrow, "#D55E00")):
    ranks = metrics.trial_ranks(drawn, trials)
    covered = [np.nanmean(metrics.interval_coverage(ranks, 100, level)) for level in levels]
    curve.plot(levels, covered, "o-", ms=3, color=color, label=label)
    density = metrics.pit_histogram(ranks, 100, n_bins=20).sum(axis=1)
    pit.stairs(20 * density / density.sum(), np.linspace(0, 1, 21), color=color, lw=1.5)
    print(f"{label}: {covered[list(levels).index(0.9)]:.1%} of trials in 90 % intervals")
curve.axline((0, 0), slope=1, color="grey", lw=1, ls="--")
curve.set(xlabel="central interval of draws", ylabel="share of trials inside")
curve.legend(frameon=False)
pit.axhline(1, color="grey", lw=1, ls="--")
_ = pit.set(xlabel="rank of the trial / number of draws", ylabel="density", ylim=(0, None))

# %%
# Scores
# ------
#
# Calibration is not enough: draws around the mean response can be calibrated. CRPS also rewards
# predictions that depend on the image, voxel by voxel, and the energy score does so for whole
# patterns. The energy score therefore separates ridge's draws, whose noise voxels share, from
# independent Gaussian residuals around the same predictions with the same variances; CRPS differs
# between them by chance only. The true distribution is the floor of both.

residual_sd = (draws - prediction).std(axis=(0, 1))
noise = np.random.default_rng(0).standard_normal(draws.shape, dtype=np.float32)
independent = prediction + residual_sd * noise
null = brainenc.MeanEncoder().fit(tokens[fit], data.betas[fit])
rows = {
    "mean response": null.sample(tokens[held_out], n=100, random_state=0),
    "ridge": draws,
    "ridge, half the spread": narrow,
    "ridge + independent residuals": independent,
    "true distribution": data.truth.select(held_out).sample(n=100, random_state=0),
}
sd = np.nanstd(data.betas[fit], axis=(0, 1))
table = {}
for name, drawn in rows.items():
    inside = metrics.interval_coverage(metrics.trial_ranks(drawn, trials), 100, 0.9)
    table[name] = {
        "CRPS (z)": metrics.crps(drawn / sd, trials / sd).mean(),
        "energy score": metrics.energy_score(drawn / sd, trials / sd).mean(),
        "in 90 %": np.nanmean(inside),
    }
pd.DataFrame(table).T.round(3)

# %%
# Intervals with guaranteed coverage
# ----------------------------------
#
# `predict_interval` assumes that the spread of the draws is right. It is too small for an encoder
# that was fitted to quieter trials (of another session, for instance). `calibrate` rescales the
# draws of any encoder with images it did not learn, and makes its intervals conformal: they contain
# a trial of a new image with at least the requested probability, on average over calibration sets.

quieter = data.truth.signal[fit, None] + 0.5 * (data.betas[fit] - data.truth.signal[fit, None])
overconfident = brainenc.RidgeEncoder(features=None).fit(tokens[fit], quieter)
calibrated = brainenc.calibrate(overconfident, tokens[held_out[:75]], trials[:75])
new = held_out[75:]
for name, one in {"as fitted": overconfident, "calibrated": calibrated}.items():
    lower, upper = one.predict_interval(tokens[new], coverage=0.9)
    inside = (trials[75:] >= lower[:, None]) & (trials[75:] <= upper[:, None])
    print(f"{name:10}: {inside.mean():.1%} of new trials in 90 % intervals")

# %%
# Every benchmark does all of this: `brainenc.benchmark` scores 200 draws per held-out image and
# adds the reference rows, and its report shows these figures for each encoder.
