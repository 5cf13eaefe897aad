from .caption_scores import caption_scores as caption_scores
from .description import describe as describe
from .projection import ProjectedWeights as ProjectedWeights
from .projection import project_weights as project_weights
from .result import Description as Description
from .text import text_concept as text_concept
from .text import text_scores as text_scores
from .top import top_images as top_images
