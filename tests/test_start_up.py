"""What is imported, and when: heavy libraries only by what needs them."""

import json
import re
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys
loaded = {}

import brainenc
loaded["import"] = list(sys.modules)

import numpy as np
rng = np.random.default_rng(0)
X = rng.standard_normal((120, 10)).astype(np.float32)
betas = rng.standard_normal((120, 2, 5)).astype(np.float32)
images = rng.integers(0, 256, (120, 32, 32), dtype=np.uint8)

def use(encoder, X):
    encoder.fit(X[:80], betas[:80]).predict(X[80:])
    encoder.score(X[80:], betas[80:])
    encoder.sample(X[80:], n=2)

brainenc.MeanEncoder().fit(X, betas).predict(X)
loaded["mean"] = list(sys.modules)
brainenc.RidgeEncoder().fit(X, betas)
loaded["first fit"] = list(sys.modules)
use(brainenc.RidgeEncoder(), X)
loaded["ridge"] = list(sys.modules)
use(brainenc.RidgeEncoder(form="kernel"), X)
use(brainenc.RidgeEncoder(brainenc.GaborPyramid(verbose=False)), images)
loaded["kernel and images"] = list(sys.modules)
print(json.dumps(loaded))
"""

#: Compilers, trainers, plots, readers and servers: seconds and hundreds of MB that ridge needs not.
NEVER = {
    *("torch._dynamo", "torch._inductor", "lightning", "lightning_fabric"),
    *("numba", "llvmlite", "matplotlib", "plotly", "jinja2", "nilearn", "nibabel", "h5py"),
    *("open_clip", "torchvision", "timm", "transformers", "dask", "distributed", "typer"),
    *("brainenc.training", "brainenc.nets", "brainenc.benchmarking", "brainenc.report"),
}
#: What `import brainenc` alone must not bring in, besides.
NOT_AT_IMPORT = {"torch", "sklearn", "scipy", "pandas", "numpy", "himalaya", "PIL", "tqdm"}
#: A quarter of the time of a first fit, which uses nothing of them.
NOT_AT_FIRST_FIT = {"scipy.stats", "sklearn.cluster", "sklearn.pipeline", "sklearn.isotonic"}


@pytest.fixture(scope="module")
def loaded():
    """Modules in a fresh process, after each step of a first session with ridge."""
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return {step: set(modules) for step, modules in json.loads(result.stdout).items()}


@pytest.mark.parametrize(
    ("step", "forbidden"),
    [
        ("import", NEVER | NOT_AT_IMPORT),
        ("mean", NEVER | {"torch", "himalaya"}),
        ("first fit", NEVER | NOT_AT_FIRST_FIT | {"himalaya"}),
        ("ridge", NEVER | {"himalaya"}),
        ("kernel and images", NEVER | {"himalaya"}),
    ],
)
def test_a_session_with_ridge_loads_what_it_needs(loaded, step, forbidden):
    assert loaded[step] & forbidden == set()


def test_the_modules_named_here_are_those_that_are_loaded(loaded):
    # A name that is spelt wrong would never be found.
    assert {"torch", "sklearn", "pandas", "PIL"} <= loaded["kernel and images"]


def test_import_takes_less_than_a_third_of_a_second():
    seconds = []
    for _ in range(3):
        command = [sys.executable, "-X", "importtime", "-c", "import brainenc"]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        (found,) = re.findall(r"\| +(\d+) \| brainenc$", report, flags=re.MULTILINE)
        seconds.append(int(found) / 1e6)
    # About .02 s; the fastest of three, as other work on the machine only ever adds to it.
    assert min(seconds) < 0.3


@pytest.mark.parametrize(
    "use",
    [
        "import scipy.stats; scipy.stats.norm",
        "from scipy.stats import norm",
        "from scipy import stats; stats.norm",
        "import scipy.stats as stats; stats.norm",
        "from scipy.stats import *; norm",
        "from scipy.stats._stats_py import rankdata",
        "import scipy.stats.distributions",
    ],
)
@pytest.mark.parametrize("within", [True, False])
def test_scipy_stats_is_there_for_all_who_use_it(use, within):
    # Within the block as another thread would that imports at that time.
    code = "import sys\nfrom brainenc.late_imports import scipy_stats_if_used\n"
    code += "with scipy_stats_if_used():\n    import sklearn.base\n"
    code += f"    exec({use!r})\n" if within else f"exec({use!r})\n"
    code += "import scipy.stats, scipy\n"
    code += "found = sys.modules['scipy.stats']\n"
    code += "assert scipy.stats is found and type(found) is type(sys), type(found)\n"
    code += "assert scipy.stats.rankdata([3, 1]).tolist() == [2, 1]"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_scikit_learns_own_use_of_scipy_stats_finds_it():
    code = "import sys, brainenc\nbrainenc.RidgeEncoder\nassert 'scipy.stats' not in sys.modules\n"
    code += "from sklearn.utils.fixes import _mode\nimport numpy as np\n"
    code += "assert _mode(np.array([1, 2, 2])).mode.tolist() == [2]"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
