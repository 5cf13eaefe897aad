"""
Captions and blurred images as feature spaces
=============================================

A table from elsewhere, here of the words of captions, becomes a feature space that is looked up by
the content of the images; and any extractor can be given blurred images. Which voxels need the
captions, and which the fine detail?
"""

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer

import brainenc
from brainenc.features import foveal_blur, gaussian_blur

data = brainenc.datasets.simulate_subject(n_images=300, n_voxels=120, random_state=1)
captions = data.truth.captions()
words = TfidfVectorizer().fit_transform(captions).toarray()
captions[:2], words.shape

# %%
# What captions explain beyond Gabor energy, and captions of *other* images, the null:

gabor = brainenc.GaborPyramid(n_scales=4, verbose=False)
wrong = np.random.default_rng(0).permutation(len(words))
areas = ["V1v", "V2v", "V3v", "hV4", "FFA", "PPA", "EBA"]
unique = {}
for name, table in {"captions": words, "of other images": words[wrong]}.items():
    looked_up = brainenc.PrecomputedFeatures(data.images, table, name, verbose=False)
    partition = brainenc.variance_partitioning(
        data, features={"gabor": gabor, "text": looked_up}, cv=3, n_iter=5, n_bootstraps=50,
        verbose=False,
    )  # fmt: skip
    unique[name] = partition.voxels.groupby("roi")["unique_text"].mean()[areas]
pd.DataFrame(unique).round(3)

# %%
# Negative values are the cost of a band that explains nothing. Captions explain the areas that
# respond to objects.
#
# The same Gabor pyramid on the images, on blurred ones, and on images whose blur grows with
# eccentricity:

encoders = {
    "sharp": brainenc.RidgeEncoder(gabor),
    "blur 0.3°": brainenc.RidgeEncoder(
        brainenc.TransformedFeatures(gabor, gaussian_blur(0.3), verbose=False)
    ),
    "blur 1°": brainenc.RidgeEncoder(
        brainenc.TransformedFeatures(gabor, gaussian_blur(1.0), verbose=False)
    ),
    "foveal": brainenc.RidgeEncoder(
        brainenc.TransformedFeatures(gabor, foveal_blur(0.1), verbose=False)
    ),
}
result = brainenc.benchmark(data, encoders, cv=3, references=False, verbose=False)
table = result.rois.pivot_table(index="roi", columns="encoder", values="r", observed=True)
table.loc[areas, list(encoders)].round(3)

# %%
# V1 and V2, with small receptive fields, lose most by a blur of a degree. hV4, whose fields are
# larger than that, loses nothing.
