"""Preferred orientations in silico against the simulated subject's own, for the page."""

import matplotlib.pyplot as plt
import numpy as np

import brainenc
from brainenc.insilico import gratings
from brainenc.report import styled, tuning_curves

data = brainenc.datasets.simulate_subject(n_images=800, n_voxels=160, random_state=0)
gabor = brainenc.GaborPyramid(verbose=False)
encoder = brainenc.RidgeEncoder(gabor).fit(data.images, data.betas)
stimuli = gratings(cycles=[4, 8])
found = brainenc.experiment(encoder, stimuli, rois=data.voxels)
true = np.nan_to_num(data.truth.respond(stimuli.images))
angle = np.deg2rad(stimuli.table["orientation"].to_numpy())
preferred = np.rad2deg(np.angle(np.exp(2j * angle) @ true)) / 2 % 180

table = found.preferences.query("parameter == 'orientation'").reset_index(drop=True)
shown = (table["q"] < 0.05) & true.any(axis=0)
x, y = preferred[shown], table["preferred"][shown].to_numpy(float)
y = y + 180 * np.round((x - y) / 180)  # on the same turn of the circle
with styled():
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.6), width_ratios=[1.1, 1])
    left.axline((0, 0), slope=1, color="0.6", lw=0.8)
    left.errorbar(x, y, table["error"][shown], fmt="o", ms=3, lw=0.8, color="#0072B2")
    left.set(xlabel="true preferred orientation (°)", ylabel="by the encoder (°)")
    tuning_curves(found.tuning, "orientation", order=["V2v"], ax=right)
    right.set_xlabel("orientation (°)")
