from .base import FeatureExtractor as FeatureExtractor
from .gabor import GaborPyramid as GaborPyramid
from .openclip import OpenCLIPFeatures as OpenCLIPFeatures
from .pixels import PixelFeatures as PixelFeatures
from .registry import FEATURES as FEATURES
from .registry import make_features as make_features
from .store import FeatureStore as FeatureStore
from .torch_module import TorchFeatures as TorchFeatures
