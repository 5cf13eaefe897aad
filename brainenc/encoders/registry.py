"""Encoders by short name, for the command line and for tests of all encoders."""

from typing import Any

from brainenc import encoders
from brainenc.encoders.base import BaseEncoder

#: Short name to class name; a new encoder adds its line here.
ENCODERS = {
    "mean": "MeanEncoder",
    "ridge": "RidgeEncoder",
    "banded": "BandedRidgeEncoder",
    "kernelridge": "KernelRidgeEncoder",
    "pls": "PLSEncoder",
    "latent": "LatentEncoder",
    "synbrain": "SynBrainEncoder",
    "mindsimulator": "MindSimulatorEncoder",
    "stacked": "StackedEncoder",
    "mindreader": "MindReaderEncoder",
    "roitransformer": "ROITransformerEncoder",
    "incontext": "InContextEncoder",
    "calibrated": "CalibratedEncoder",
}


def make_encoder(name: str, **parameters: Any) -> BaseEncoder:
    """Encoder of a short name.

    Parameters
    ----------
    name : str
        A key of `ENCODERS`.
    **parameters
        Constructor arguments; an unknown one (`features` of "mean", for example) is an error.

    Returns
    -------
    BaseEncoder, unfitted

    Raises
    ------
    ValueError : unknown name; the message lists the known ones.

    Examples
    --------
    >>> from brainenc.encoders import make_encoder
    >>> make_encoder("ridge", alphas=[1.0, 10.0])
    RidgeEncoder(alphas=[1.0, 10.0])
    """
    if name not in ENCODERS:
        raise ValueError(f"encoder {name!r} is unknown; there are {', '.join(ENCODERS)}")
    return getattr(encoders, ENCODERS[name])(**parameters)
