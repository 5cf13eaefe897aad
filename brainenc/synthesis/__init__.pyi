from .generators import Generator as Generator
from .generators import PCAImages as PCAImages
from .objective import Objective as Objective
from .objective import objective as objective
from .scene_search import SceneSearch as SceneSearch
from .scene_search import SearchGenerator as SearchGenerator
from .synthesize import MadeImages as MadeImages
from .synthesize import synthesize as synthesize
