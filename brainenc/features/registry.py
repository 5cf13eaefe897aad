"""Feature extractors by short name, for the command line."""

from typing import Any

from brainenc import features
from brainenc.features.base import FeatureExtractor

#: Short name to class name; a new extractor adds its line here.
FEATURES = {
    "pixels": "PixelFeatures",
    "gabor": "GaborPyramid",
    "openclip": "OpenCLIPFeatures",
}


def make_features(spec: str, **parameters: Any) -> FeatureExtractor:
    """Extractor of a short name.

    Parameters
    ----------
    spec : str
        A key of `FEATURES`; "openclip:MODEL:PRETRAINED" names the model and its weights (a tag or
        a local file).
    **parameters
        Constructor arguments.

    Returns
    -------
    FeatureExtractor

    Raises
    ------
    ValueError : unknown name; the message lists the known ones.
    """
    name, *details = spec.split(":", 2)
    if name not in FEATURES or (details and name != "openclip"):
        raise ValueError(
            f"features {spec!r} are unknown; there are {', '.join(FEATURES)} and "
            "openclip:MODEL:PRETRAINED"
        )
    return getattr(features, FEATURES[name])(*details, **parameters)
