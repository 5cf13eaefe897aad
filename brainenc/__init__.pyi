from . import datasets as datasets
from . import encoders as encoders
from . import features as features
from . import metrics as metrics
from . import report as report
from .benchmarking import BenchmarkResult as BenchmarkResult
from .benchmarking import benchmark as benchmark
from .data import EncodingData as EncodingData
from .data import load_npz as load_npz
from .encoders import BandedRidgeEncoder as BandedRidgeEncoder
from .encoders import BaseEncoder as BaseEncoder
from .encoders import MeanEncoder as MeanEncoder
from .encoders import RidgeEncoder as RidgeEncoder
from .encoders import StackedEncoder as StackedEncoder
from .encoders import SynBrainEncoder as SynBrainEncoder
from .encoders import calibrate as calibrate
from .encoders import load as load
from .features import FeatureStore as FeatureStore
from .features import GaborPyramid as GaborPyramid
from .features import OpenCLIPFeatures as OpenCLIPFeatures
from .features import PixelFeatures as PixelFeatures
from .features import TorchFeatures as TorchFeatures
from .volumes import Volume as Volume
from .signal_and_noise import NoiseModel as NoiseModel
from .signal_and_noise import noise_model as noise_model

__version__: str
