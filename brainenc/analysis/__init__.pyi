from .across_subjects import consistency_across_subjects as consistency_across_subjects
from .category_information import category_information as category_information
from .consistency import consistency as consistency
from .cycles import cycle as cycle
from .masking import masking_curve as masking_curve
from .perturbation import Perturbation as Perturbation
from .perturbation import perturb as perturb
from .through_decoder import through_decoder as through_decoder
