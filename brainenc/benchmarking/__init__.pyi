from .evaluate import evaluate as evaluate
from .group import group as group
from .group_result import GroupResult as GroupResult
from .result import BenchmarkResult as BenchmarkResult
from .run import benchmark as benchmark
