"""Made images, and what the simulated subject's voxels answer to them, for the page."""

import matplotlib.pyplot as plt
import numpy as np

import brainenc
from brainenc.report import styled
from brainenc.synthesis import PCAImages, objective, synthesize

data = brainenc.datasets.simulate_subject(n_images=1400, n_voxels=100, random_state=0)
v1 = data.rois()["V1v"]
fit, natural = np.arange(1000), np.arange(1000, 1400)
betas = data.betas[fit][:, :, v1]
order = np.random.default_rng(0).permutation(len(fit))
generator = PCAImages(data.images[fit])
signal = data.truth.signal[natural][:, v1].mean(axis=1)
values = {}
for name, own in (("fitted", betas), ("permuted images", betas[order])):
    gabor = brainenc.GaborPyramid(verbose=False)
    drive = objective(brainenc.RidgeEncoder(gabor).fit(data.images[fit], own))
    made = synthesize(drive, generator, 2, n_steps=30)
    predicted = drive.score(data.images[natural])
    climbed = (made.scores["objective"] - predicted.mean()) / predicted.std()
    true = (data.truth.respond(made.images)[:, v1].mean(axis=1) - signal.mean()) / signal.std()
    values[name] = climbed, true, made.images

with styled():
    figure, axes = plt.subplot_mosaic(
        [["one", "two", "best"], ["true", "true", "true"]], figsize=(6.6, 4.8)
    )
    pictures = [*values["fitted"][2], data.images[natural[signal.argmax()]]]
    for name, picture in zip(("one", "two", "best"), pictures, strict=True):
        axes[name].imshow(picture)
        axes[name].axis("off")
    axes["one"].set_title("made")
    axes["two"].set_title("made")
    axes["best"].set_title("best natural image")
    axis = axes["true"]
    for (name, (climbed, true, _)), color in zip(
        values.items(), ("#0072B2", "#a3acb5"), strict=True
    ):
        axis.plot(climbed, np.full(2, 1.0), "o", color=color, label=name)
        axis.plot(true, np.zeros(2), "o", color=color)
    best = (signal.max() - signal.mean()) / signal.std()
    axis.axvline(best, color="0.6", lw=0.8, ls="--")
    axis.annotate(
        "best natural image", (best, 0.5), fontsize=8, xytext=(4, 0), textcoords="offset points"
    )
    axis.set(yticks=[0, 1], yticklabels=["true response", "climbed"], ylim=(-0.5, 1.5))
    axis.set_xlabel("s.d. of natural images")
    axis.legend(loc="lower right")
