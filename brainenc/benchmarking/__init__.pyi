from .curve_methods import Transfer as Transfer
from .curve_result import LearningCurve as LearningCurve
from .evaluate import evaluate as evaluate
from .group import group as group
from .group_result import GroupResult as GroupResult
from .learning_curve import learning_curve as learning_curve
from .result import BenchmarkResult as BenchmarkResult
from .run import benchmark as benchmark
