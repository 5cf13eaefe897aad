"""Consistency of contrast maps of a simulated subject, for the page on what a decoder reads."""

import matplotlib.pyplot as plt

import brainenc
from brainenc.report import styled
from brainenc.report.analysis_figures import consistency_bars

data = brainenc.datasets.simulate_subject(n_images=700, n_voxels=150, random_state=3)
tokens, labels = data.truth.tokens, data.truth.category
encoder = brainenc.RidgeEncoder().fit(tokens[:500], data.betas[:500])
table = brainenc.consistency(
    data.betas[500:],
    labels[500:],
    others={"ridge": encoder.predict(tokens[500:]), "true signal": data.truth.signal[500:]},
    rois=data.voxels["roi"],
    n_permutations=200,
)
comparisons = ["halves of trials", "ridge", "true signal"]
with styled():
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.4), sharey=True)
    consistency_bars(table, comparisons=comparisons, ax=axes)
