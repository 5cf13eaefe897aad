"""
What voxels respond to, in words
================================

Words of the images with the largest predicted responses describe a voxel. Voxels of pure noise have
such words too: here a quarter of the voxels respond to nothing, and it is known which.
"""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import brainenc
from brainenc.report import styled, word_pictures

# %%
# Ridge is fitted on 600 images. Another 600 have captions and betas, which the encoder has not
# seen.

data = brainenc.datasets.simulate_subject(
    n_images=1200, n_voxels=300, concepts=0.4, noise_voxels=0.25, random_state=3
)
tokens, captions, truth = data.truth.tokens, data.truth.captions(), data.truth.selectivity
fit, new = np.arange(600), np.arange(600, 1200)
encoder = brainenc.RidgeEncoder(features=None).fit(tokens[fit], data.betas[fit])
captions[:3]

# %%
# The words of every voxel, and their tests against measured betas.

found = brainenc.describe(
    encoder,
    tokens[new],
    captions[600:],
    betas=data.betas[new],
    voxels=data.voxels,
    n_permutations=500,
)
found.rois()

# %%
# Voxels of noise have top images that are about as coherent as those of selective voxels. The test
# against betas tells them apart.

kinds = np.where(truth["noise"], "noise", np.where(truth["concept"] == "", "early", "selective"))
right = [
    word in concept for word, concept in zip(found.voxels["word"], truth["concept"], strict=True)
]
table = found.voxels.assign(kind=kinds, right=right)
summary = table.groupby("kind").agg(
    voxels=("voxel", "size"),
    purity=("purity", "median"),
    named=("named", "mean"),
    right=("right", "mean"),
)
summary.loc[["early", "noise"], "right"] = np.nan
summary.round(2)

# %%
figure = Figure(figsize=(6.4, 3), layout="constrained")
axes = figure.subplots()
for kind, color in {"noise": "#a3acb5", "early": "#E69F00", "selective": "#0072B2"}.items():
    rows = table[table["kind"] == kind]
    axes.scatter(rows["purity"], rows["r_word"], s=9, color=color, label=kind)
axes.set(xlabel="share of the top images that have the word", ylabel="r of the word with betas")
_ = axes.legend()

# %%
# The top images of the voxels that fit the commonest words best:

with styled():
    figure = word_pictures(found.voxels, found.top, data.images[new], n_words=3, n_pictures=8)

# %%
# Descriptions must beat those of other voxels of the same area, not only those of any voxel.

scores = brainenc.caption_scores(
    found.voxels["word"].where(found.voxels["named"], ""),
    captions[600:],
    data.betas[new],
    rois=data.voxels["roi"],
)
area = np.where(truth["colour"] != "", "concept in a colour", "category of the area")
of = pd.Series(area, name="responds to")[found.voxels["named"] & (kinds == "selective")]
scores.groupby(of)[["score", "shuffled", "shuffled_in_roi", "roi_label"]].mean().round(2)
