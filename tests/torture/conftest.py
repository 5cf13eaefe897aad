import sys

from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
