from .banded import BandedRidgeEncoder as BandedRidgeEncoder
from .base import BaseEncoder as BaseEncoder
from .mean import MeanEncoder as MeanEncoder
from .persistence import load as load
from .registry import ENCODERS as ENCODERS
from .registry import make_encoder as make_encoder
from .ridge import RidgeEncoder as RidgeEncoder
from .synbrain import SynBrainEncoder as SynBrainEncoder
