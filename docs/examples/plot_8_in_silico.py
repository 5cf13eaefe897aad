"""
An experiment with objects
==========================

Which category do the voxels of an area prefer? `experiment` asks a fitted encoder. The pictures are
new: one object on a grey background, which no training image shows. The simulated subject's true
responses to the same pictures are known.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import brainenc
from brainenc.datasets import draw_scenes
from brainenc.report import condition_bars

# %%
# Ridge on a layer of a network that was trained on photographs.

data = brainenc.datasets.simulate_subject(n_images=400, n_voxels=150, random_state=3)
features = brainenc.EfficientNetLiteFeatures("block12", pool="avg", verbose=False)
encoder = brainenc.RidgeEncoder(features).fit(data.images, data.betas)

# %%
# Twelve pictures of each category, which differ in size, place and colour.

rng = np.random.default_rng(0)
names = ["face", "body", "place", "vehicle", "food"]
objects = pd.DataFrame(
    {
        "image": np.arange(60),
        "category": np.repeat(names, 12),
        "x": rng.uniform(-1, 1, 60),
        "y": rng.uniform(-1, 1, 60),
        "size": rng.uniform(4, 6, 60),
        "hue": rng.random(60),
    }
)
images = draw_scenes(objects, background="grey")
conditions = {name: images[objects["category"] == name] for name in names}
figure, axes = plt.subplots(1, 5, figsize=(8.6, 1.9))
for axis, (name, some) in zip(axes, conditions.items(), strict=True):
    axis.imshow(some[0])
    axis.set_title(name)
    axis.axis("off")

# %%
# Means over the pictures, with the uncertainty of the encoder (dark) and the s.d. of single trials
# (light).

found = brainenc.experiment(encoder, conditions, rois=data.voxels)
_ = condition_bars(found.rois, order=["FFA", "PPA", "EBA"])

# %%
# The true means over the same pictures, less those of the area: an encoder that was fitted to whole
# scenes need not be right about objects on grey.

true = data.truth.respond(images, objects)
roi = data.voxels["roi"].to_numpy()
means = pd.DataFrame(true).groupby(objects["category"]).mean().loc[names]
rows = {area: means.loc[:, roi == area].mean(axis=1) for area in ("FFA", "PPA", "EBA")}
both = pd.concat({"true": pd.DataFrame(rows).T, "encoder": found.table().loc[list(rows), names]})
both.sub(both.mean(axis=1), axis=0).round(2)

# %%
# The order is right in all three areas, and the differences are smaller than the true ones, since
# ridge shrinks. Intervals are about the encoder's answer, which such a bias is no part of. Were
# pictures far from those of the fit, the result would have a warning:

found.warnings
