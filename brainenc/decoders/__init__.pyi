from .base import BaseDecoder as BaseDecoder
from .encoder_decoder import EncoderDecoder as EncoderDecoder
from .ridge import RidgeDecoder as RidgeDecoder
