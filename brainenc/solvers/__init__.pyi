from .banded import banded_ridge_cv as banded_ridge_cv
from .banded import feature_bands as feature_bands
from .kernel import kernel_of as kernel_of
from .kernel import kernel_ridge_cv as kernel_ridge_cv
from .primal import ridge_cv as ridge_cv
from .regression import RidgeRegression as RidgeRegression
from .result import RidgeFit as RidgeFit
