from .base import BaseDecoder as BaseDecoder
from .encoder_decoder import EncoderDecoder as EncoderDecoder
from .mind_eye import MindEyeDecoder as MindEyeDecoder
from .ridge import RidgeDecoder as RidgeDecoder
