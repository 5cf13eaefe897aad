"""Areas of a variance partition of the simulated subject, for its page."""

import matplotlib.pyplot as plt

import brainenc
from brainenc.report import partition_areas, styled

data = brainenc.datasets.simulate_subject(n_images=200, n_voxels=150, random_state=1)
partition = brainenc.variance_partitioning(
    data,
    features={
        "Gabor": brainenc.GaborPyramid(n_scales=3, verbose=False),
        "tokens": data.truth.tokens.mean(axis=1),
    },
    n_iter=5,
    n_bootstraps=100,
    verbose=False,
)
with styled():
    rois = ["V1v", "V3v", "hV4", "FFA", "PPA", "EBA"]
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.0), sharey=True)
    partition_areas(partition.voxels, order=rois, ax=axes.ravel())
    legend = axes[0, 0].get_legend()
    legend.remove()
    figure.legend(handles=legend.legend_handles, loc="outside upper left", ncols=5)
    for panel in axes[0]:
        panel.set_xlabel("")
    for panel in axes[:, 1:].ravel():
        panel.set_ylabel("")
