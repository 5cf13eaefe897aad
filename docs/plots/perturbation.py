"""Perturbed ROIs of a simulated subject, for the page on what a decoder reads."""

import matplotlib.pyplot as plt

import brainenc
from brainenc.report import styled
from brainenc.report.analysis_figures import perturbation_bars

data = brainenc.datasets.simulate_subject(n_images=700, n_voxels=150, random_state=3)
betas, tokens, labels = data.zscore_by_session().betas, data.truth.tokens, data.truth.category
decoder = brainenc.RidgeDecoder().fit(betas[:500], tokens[:500])
prototypes = {name: tokens[:500][labels[:500] == name].mean(axis=0) for name in sorted(set(labels))}
found = {
    roi: brainenc.perturb(decoder, betas[500:], data.rois()[roi], prototypes=prototypes).table
    for roi in ("FFA", "PPA", "V1v")
}
with styled():
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.0), sharey=True)
    perturbation_bars(found, level="quantile 0.95", ax=axes)
