"""Words of the simulated subject's voxels on its sheet of cortex, for the page."""

import matplotlib.pyplot as plt
import numpy as np

import brainenc
from brainenc.report import styled, word_map

data = brainenc.datasets.simulate_subject(900, 400, concepts=0.3, noise_voxels=0.2, random_state=3)
tokens, captions, betas = data.truth.tokens, data.truth.captions(), data.betas
fit, new = np.arange(600), np.arange(600, 900)
encoder = brainenc.RidgeEncoder(features=None).fit(tokens[fit], betas[fit])
found = brainenc.describe(
    encoder, tokens[new], captions[600:], betas=betas[new], voxels=data.voxels, n_permutations=500
)
with styled():
    figure, axes = plt.subplots(figsize=(9.6, 4.2))
    word_map(found.voxels, ax=axes)
    axes.get_legend().set_loc("center left")
    axes.get_legend().set_bbox_to_anchor((1.02, 0.5))
