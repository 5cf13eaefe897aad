from .base import BaseDecoder as BaseDecoder
from .base import Decoder as Decoder
from .encoder_decoder import EncoderDecoder as EncoderDecoder
from .ridge import RidgeDecoder as RidgeDecoder
