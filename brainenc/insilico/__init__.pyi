from .experiment import experiment as experiment
from .result import Experiment as Experiment
from .stimuli import Stimuli as Stimuli
from .stimuli import bars as bars
from .stimuli import gratings as gratings
from .stimuli import objects_on_backgrounds as objects_on_backgrounds
from .stimuli import with_blur as with_blur
from .stimuli import with_contrast as with_contrast
