from .estimates import fit_residual_noise as fit_residual_noise
from .estimates import fit_shared_signal as fit_shared_signal
from .estimates import fit_trial_noise as fit_trial_noise
from .gaussian import ResidualNoise as ResidualNoise
from .model import NoiseModel as NoiseModel
from .model import noise_model as noise_model
from .shape import ResidualShape as ResidualShape
from .shape import fit_residual_shape as fit_residual_shape
