"""An RDM and its transforms, for the page."""

import matplotlib.pyplot as plt
import numpy as np

import brainenc
from brainenc import metrics
from brainenc.report import styled

data = brainenc.datasets.simulate_subject(n_images=40, n_voxels=300, random_state=0)
order = np.argsort(data.truth.category, kind="stable")
early = ~data.voxels["roi"].isin(["FFA", "PPA", "EBA"]).to_numpy()
rdm = metrics.rdm(data.average_repeats().betas[:, 0][:, early])[np.ix_(order, order)]
panels = {
    "RDM": rdm,
    "geo-topological": metrics.geotopological(rdm, 0.2, 0.8),
    "geodesic": metrics.geodesic(rdm, 0.3),
}
with styled():
    figure, axes = plt.subplots(1, 3, figsize=(8.6, 2.9))
    for axis, (title, matrix) in zip(axes, panels.items(), strict=True):
        shown = axis.imshow(matrix)
        axis.set_title(title)
        axis.set(xticks=[], yticks=[])
        figure.colorbar(shown, ax=axis, shrink=0.8)
