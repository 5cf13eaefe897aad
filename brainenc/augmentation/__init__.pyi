from .result import AugmentationResult as AugmentationResult
from .rows import augment as augment
from .study import augmentation_study as augmentation_study
