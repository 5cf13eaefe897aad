"""
Which image was seen?
=====================

Decoders of a simulated subject, and an encoder used as one, beside the rows that say what a score
means.
"""

from matplotlib.figure import Figure

import brainenc
from brainenc.report.decoding_figures import pool_size_lines, retrieval_bars, roi_retrieval
from brainenc.report.style import encoder_colors

data = brainenc.datasets.simulate_subject(n_images=500, n_voxels=150, random_state=3)
result = brainenc.decoding_benchmark(
    data.zscore_by_session(),
    {"LatentEncoder": brainenc.LatentEncoder(n_members=0)},
    targets=data.truth.tokens,
    test=0.4,
    n_permutations=100,
    n_bootstraps=200,
    check=False,
    verbose=False,
)
result.table()

# %%
# Both directions
# ---------------
#
# Image retrieval: given a response, choose the image. Brain retrieval: given an image, choose the
# response. The encoder has no weights of its own as a decoder, and is ahead of the ridge decoder.

references = result.decoders.loc[result.decoders["kind"] == "reference", "decoder"]
colors = encoder_colors(result.decoders["decoder"], references)
retrieval_bars(result.decoders, colors=colors, responses="average")

# %%
# Pool size
# ---------
#
# Two-way identification (a pool of two) hardly tells decoders of images from those of categories;
# larger pools do.

names = ["LatentEncoder", "ridge decoder", "ROI means", "category known"]
pool_size_lines(
    result.pool_sizes, decoders=names, colors=encoder_colors(names), responses="average"
)

# %%
# From one ROI alone
# ------------------

roi_retrieval(result.rois)

# %%
# Permuted training images
# ------------------------
#
# Among all images the procedure is at chance; within categories it keeps what the category gives.

result.permuted[["permuted", "direction", "observed", "mean", "low", "high", "p", "chance"]]

# %%
# What was confused with what
# ---------------------------
#
# A wrong choice, its right image (left) and the three that the encoder found more similar.

wrong = result.choices[
    (result.choices["decoder"] == "LatentEncoder")
    & (result.choices["direction"] == "image_retrieval")
    & (result.choices["rank"] > 1)
]
one = wrong[wrong["image"] == wrong["image"].iloc[0]]
shown = [int(one["image"].iloc[0]), *one["wrong_image"].astype(int)]
figure = Figure(figsize=(7, 2), layout="constrained")
for ax, image in zip(figure.subplots(1, 4), shown, strict=True):
    ax.imshow(data.images[image])
    ax.set(title=f"image {image}", xticks=[], yticks=[])
