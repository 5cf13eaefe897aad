"""
What does a decoder read?
=========================

Perturbed ROIs, masked voxels, contrast maps, cycles and categories of a simulated subject, each
beside what would be seen without a relation.
"""

import numpy as np

import brainenc
from brainenc.report.analysis_figures import (
    category_bars,
    consistency_bars,
    masking_lines,
    perturbation_bars,
)

data = brainenc.datasets.simulate_subject(n_images=700, n_voxels=150, random_state=3)
betas, tokens, labels = data.zscore_by_session().betas, data.truth.tokens, data.truth.category
train, test = (betas[:500], tokens[:500]), (betas[500:], tokens[500:])
decoder = brainenc.RidgeDecoder().fit(*train)
encoder = brainenc.RidgeEncoder().fit(tokens[:500], betas[:500])

# %%
# Perturbed ROIs
# --------------
#
# Each voxel of an ROI is set to the 95 % quantile of its own responses. High values in FFA are read
# as faces, more than those of as many random voxels (lines: their 95 % range).

names = sorted(set(labels))
prototypes = {name: tokens[:500][labels[:500] == name].mean(axis=0) for name in names}
rois = data.rois()
found = {
    roi: brainenc.perturb(decoder, test[0], rois[roi], prototypes=prototypes).table
    for roi in ("FFA", "PPA", "V1v")
}
perturbation_bars(found, level="quantile 0.95")

# %%
# Masked voxels
# -------------
#
# As the decoder is, and fitted anew to the voxels that are left: random voxels first, and the most
# reliable ones first.

curves = {
    name: brainenc.masking_curve(
        decoder, train=train, test=test, shares=(0, 0.5, 0.8, 0.95), order=order, n_masks=2
    )
    for name, order in {"random": "random", "high ncsnr first": data.truth.ncsnr}.items()
}
masking_lines(curves, score="brain_retrieval")

# %%
# Consistency of contrast maps
# ----------------------------
#
# Raw activation maps of other categories (triangles) agree as well as those of the same one: they
# are the mean of each voxel. Contrast maps (bars) do not.

same_units = brainenc.RidgeEncoder().fit(tokens[:500], data.betas[:500])
table = brainenc.consistency(
    data.betas[500:],
    labels[500:],
    others={"ridge, predictions": same_units.predict(tokens[500:])},
    rois=data.voxels["roi"],
    n_permutations=200,
)
consistency_bars(table, comparisons=["halves of trials", "ridge, predictions"])

# %%
# Cycles
# ------
#
# A response that is decoded and encoded comes back with its own noise. Against the image's other
# trials, less is left.

cycles = brainenc.analysis.cycle(encoder, decoder, train=train, test=test)
cycles[["path", "kind", "space", "r", "image_retrieval", "brain_retrieval"]].round(3)

# %%
# Categories
# ----------
#
# The same linear read-out of responses, of the true embeddings and of decoded ones, with 95 %
# intervals; grey: labels permuted.

areas = brainenc.analysis.category_information(
    decoder, train=train, test=test, categories=(labels[:500], labels[500:])
)
category_bars(areas)

# %%
# Synthetic responses through the decoder
# ---------------------------------------
#
# Responses that have nothing to do with the brain are found every time.

draws = encoder.sample(tokens[500:], n=3, random_state=0)
scores = brainenc.through_decoder(
    decoder, {"ridge, mean of draws": np.moveaxis(draws, 0, 1)}, train=train, test=test
)
centred = scores[scores["similarity"] == "centred"]
centred[["responses", "image_retrieval", "brain_retrieval", "voxel_r", "relative_mse"]].round(3)
