"""
Pictures for an area, by search
===============================

Which scenes would the FFA answer most? A search over drawn scenes asks the encoder, which needs no
gradient for it. The objects of every scene are known, so that the simulated subject's true response
can be compared with that to the scenes of the data.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import brainenc
from brainenc.synthesis import SceneSearch, synthesize

# %%
# Ridge on a layer of a network that was trained on photographs.

data = brainenc.datasets.simulate_subject(n_images=600, n_voxels=100, random_state=0)
fit, others = np.arange(400), np.arange(400, 600)
ffa = data.rois()["FFA"]
features = brainenc.EfficientNetLiteFeatures("block12", pool="avg", verbose=False)
encoder = brainenc.RidgeEncoder(features).fit(data.images[fit], data.betas[fit][:, :, ffa])

# %%
# Eight random scenes, changed again and again; of each the better version stays.


def mean_response(pictures):
    return encoder.predict(pictures).mean(axis=1)


search = SceneSearch()
made = synthesize(mean_response, search, n=8, n_steps=15, natural=data.images[others])
figure, axes = plt.subplots(1, 8, figsize=(8.6, 1.3))
for axis, picture in zip(axes, made.images, strict=True):
    axis.imshow(picture)
    axis.axis("off")

# %%
# The value that was searched for is large by construction. The true response is not:

objects = search.objects(made.latents)
true = data.truth.respond(made.images, objects)[:, ffa].mean(axis=1)
natural = data.truth.signal[:, ffa].mean(axis=1)
pd.Series(
    {
        "made, mean": true.mean(),
        "natural, mean": natural.mean(),
        "natural, 95 % are below": np.percentile(natural, 95),
        "natural, best of 600": natural.max(),
    }
).round(3)

# %%
# What the scenes show:

objects["category"].value_counts()
