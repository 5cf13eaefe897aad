"""Pages of the documentation that errors name: they exist, and usual errors name one."""

import ast

import numpy as np
import pytest
from conftest import REPOSITORY

import brainenc
from brainenc.documentation import PAGES, see

BETAS = np.random.default_rng(0).standard_normal((4, 4, 4, 6))
MASK = np.arange(64).reshape(4, 4, 4) < 8
IDS = ["a", "b", "a", "b", "a", "b"]
IMAGES = {name: np.full((8, 8, 3), i, np.uint8) for i, name in enumerate("ab")}


@pytest.mark.parametrize(("page", "title"), PAGES.items())
def test_a_page_exists_with_its_title_and_is_in_a_table_of_contents(page, title):
    text = (REPOSITORY / "docs" / f"{page}.rst").read_text(encoding="utf-8")
    assert text.split("\n")[0] == title
    folder, _, name = page.rpartition("/")
    contents = [path.read_text("utf-8") for path in (REPOSITORY / "docs" / folder).glob("*.rst")]
    listed = {line.strip().rpartition("/")[2] for text in contents for line in text.split("\n")}
    assert name in listed


def test_errors_name_every_page_and_no_other():
    named = []
    for path in (REPOSITORY / "brainenc").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "see":
                (page,) = node.args
                assert isinstance(page, ast.Constant), f"{path}:{node.lineno}: not a literal"
                named.append(page.value)
    assert len(named) > 100
    assert set(named) == set(PAGES)


def from_volumes(betas=BETAS, mask=MASK, ids=IDS, images=IMAGES, **options):
    return brainenc.EncodingData.from_volumes(betas, mask, ids, images, **options)


def data():
    return brainenc.datasets.simulate_subject(40, 10, random_state=0)


class Own:
    """A regressor that does not say so."""

    def fit(self, X, y):
        return self

    def predict(self, X):
        return X


def errors():
    codes = np.where(MASK, 7, 0)
    own, fixed, group = "howto_own_data", "howto_fixed_test", "howto_group"
    rng = np.random.default_rng(0)
    X, betas = rng.standard_normal((30, 4)), rng.standard_normal((30, 3))
    yield own, lambda: from_volumes(mask=np.ones((3, 4, 4), bool))
    yield own, lambda: from_volumes(mask=np.zeros((4, 4, 4)))
    yield own, lambda: from_volumes(mask=np.arange(64).reshape(4, 4, 4))
    yield own, lambda: from_volumes(ids=IDS[:5])
    yield own, lambda: from_volumes(ids=[*IDS[:5], "c"])
    yield own, lambda: from_volumes(atlases={"areas": codes}, labels={1: "V1"})
    yield own, lambda: from_volumes(atlases={"areas": np.where(MASK, 0.5, 0)}, labels={1: "V1"})
    yield "guide/data", lambda: brainenc.EncodingData(np.zeros((5, 8, 8, 3)), np.zeros((5, 2)))
    yield "guide/data", lambda: brainenc.RidgeEncoder().fit(X, betas[:20])
    yield "guide/data", lambda: brainenc.RidgeEncoder().fit(X, np.full((30, 3), np.inf))
    yield "guide/data", lambda: brainenc.load_npz("none_of_this_name.npz")
    yield "guide/data", lambda: data().select(roi="no such ROI")
    yield (
        "guide/features",
        lambda: brainenc.RidgeEncoder(features=None).fit(np.zeros((30, 8, 8, 3), np.uint8), betas),
    )
    yield fixed, lambda: brainenc.benchmark(data(), {"m": brainenc.MeanEncoder()}, cv=3, test=[1])
    yield fixed, lambda: brainenc.evaluate(data(), {"m": brainenc.MeanEncoder()})
    yield group, lambda: brainenc.benchmark([data()], {"m": brainenc.MeanEncoder()})
    yield "howto_pipeline", lambda: brainenc.benchmark(data(), {"own": Own()})
    yield "draws", lambda: brainenc.RidgeEncoder().fit(X, betas).sample(X, noise="trial")
    yield "public_data", lambda: brainenc.datasets.load_bold5000("nowhere", 1)
    yield (
        "nsd",
        lambda: brainenc.datasets.load_nsd("nowhere", 1, mask="nsdgeneral", units="percent"),
    )


@pytest.mark.parametrize(("page", "call"), list(errors()))
def test_an_error_of_a_new_user_names_the_page_that_explains_the_way_out(page, call):
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        call()
    assert see(page).lstrip(".\n ") in str(caught.value)
