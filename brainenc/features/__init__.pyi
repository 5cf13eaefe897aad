from .base import FeatureExtractor as FeatureExtractor
from .gabor import GaborPyramid as GaborPyramid
from .openclip import OpenCLIPFeatures as OpenCLIPFeatures
from .pixels import PixelFeatures as PixelFeatures
from .store import FeatureStore as FeatureStore
from .torch_module import TorchFeatures as TorchFeatures
