"""r of layers of EfficientNet-Lite0 in areas of the simulated subject, for the page."""

import matplotlib.pyplot as plt

import brainenc
from brainenc.report import layer_profiles, styled

data = brainenc.datasets.simulate_subject(n_images=200, n_voxels=150, random_state=1)
layers = {
    name: brainenc.EfficientNetLiteFeatures(name, pool="avg", verbose=False)
    for name in ("stem", "block0", "block4", "block8", "block12", "head")
}
found = brainenc.layer_map(data, layers, cv=3, n_bootstraps=100, verbose=False)
with styled():
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.2), sharey=True)
    layer_profiles(found.layers, order=["V1v", "hV4", "FFA"], ax=axes)
    for panel in axes[1:]:
        panel.set_ylabel("")
