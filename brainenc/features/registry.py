"""Feature extractors by short name, for the command line."""

from typing import Any

from brainenc import features
from brainenc.features.base import FeatureExtractor

#: Short name to class name; a new extractor adds its line here.
FEATURES = {
    "pixels": "PixelFeatures",
    "gabor": "GaborPyramid",
    "openclip": "OpenCLIPFeatures",
    "efficientnet-lite0": "EfficientNetLiteFeatures",
}

#: Short names after which a colon and details may stand, and what these are.
_DETAILS = {"openclip": "MODEL:PRETRAINED", "efficientnet-lite0": "LAYER:POOL"}


def make_features(spec: str, **parameters: Any) -> FeatureExtractor:
    """Extractor of a short name.

    Parameters
    ----------
    spec : str
        A key of `FEATURES`; "openclip:MODEL:PRETRAINED" names the model and its weights (a tag, a
        local file or folder), "openclip:hf-hub:OWNER/MODEL" and "openclip:local-dir:FOLDER" a model
        with its own weights; "efficientnet-lite0:LAYER" and "efficientnet-lite0:LAYER:POOL" name
        the layer of `EfficientNetLiteFeatures`, and "tokens" or "avg".
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
    if details and details[0] in ("hf-hub", "local-dir"):
        details = [":".join(details)]
    if name not in FEATURES or (details and name not in _DETAILS):
        longer = " and ".join(f"{known}:{more}" for known, more in _DETAILS.items())
        raise ValueError(
            f"features {spec!r} are unknown; there are {', '.join(FEATURES)}, {longer}"
        )
    return getattr(features, FEATURES[name])(*details, **parameters)
