"""NSD-imagery beside NSD: a tree of its layout, with betas that say which trial they are of."""

import h5py
import numpy as np
import pandas as pd
import pytest
from nsd_tree import SHAPE, NSDTree
from PIL import Image
from scipy.io import savemat

from brainenc.datasets import load_nsd_imagery

#: In the order of the session, with the betas of each run (NSD data manual).
RUNS = {
    "visA": 48, "attA": 96, "imgA_1": 48, "visB": 48, "attB": 96, "imgB_1": 48,
    "visC": 48, "attC": 96, "imgC_1": 48, "imgA_2": 48, "imgB_2": 48, "imgC_2": 48,
}  # fmt: skip
#: Letters in the order of the targets' numbers, which is not that of the alphabet.
LETTERS = {"A": "LVHTEX", "B": "WKBCDT", "C": "GQRSUN"}


class ImageryTree:
    def __init__(self, root, seed=0):
        self.nsd = NSDTree(root, subject=5, sessions=())
        rng = np.random.default_rng(seed)
        self.seen, self.cued = {}, {}
        for run in RUNS:
            letters = list(LETTERS[run[3]] * 8)
            self.seen[run] = rng.permutation(letters).tolist()
            self.cued[run] = rng.permutation(letters).tolist()

    def letters(self, run):
        """What the subject saw or imagined."""
        return self.cued[run] if run.startswith("img") else self.seen[run]

    def places(self, order):
        """{run: beta of the session of each of its trials}."""
        found, first = {}, 0
        for run, n_betas in RUNS.items():
            if order == "presented" or run.startswith("att"):
                found[run] = [first + trial for trial in range(48)]
            else:
                grouped = [
                    trial
                    for letter in LETTERS[run[3]]
                    for trial in range(48)
                    if self.letters(run)[trial] == letter
                ]
                found[run] = [first + grouped.index(trial) for trial in range(48)]
            first += n_betas
        assert first == 720
        return found

    def write(self, order="presented"):
        nsd = self.nsd
        nsd.write_rois()
        logs = nsd.folder("nsddata/bdata/nsdimagery")
        for run in RUNS:
            table = pd.DataFrame({"SUBJECT": 5, "TRIAL": range(1, 49)})
            table["CONDITION"], table["CUE"] = self.seen[run], self.cued[run]
            # A log may list its trials in another order.
            table[::-1].to_csv(logs / f"nsdimagery_subj05_{run}.tsv", sep="\t", index=False)
        folder = nsd.folder("nsddata/experiments/nsdimagery")
        for letter, codes in LETTERS.items():
            cells = np.empty((6, 3), dtype=object)
            for i, code in enumerate(codes):
                cells[i] = [float(i + 1), f"{letter}_{code}.png", code]
            savemat(folder / f"{letter}_pair_list.mat", {"pair_list": cells[::-1]})
            if letter == "C":
                continue
            pictures = folder / f"rawtargetimages/set{letter}"
            pictures.mkdir(parents=True)
            for i, code in enumerate(codes):
                value = 10 * (i + 1) + (100 if letter == "B" else 0)
                picture = np.full((6, 6, 3), value, np.uint8)
                Image.fromarray(picture).save(pictures / f"{letter}_{code}.png")
        betas = nsd.folder(
            "nsddata_betas/ppdata/{}/func1pt8mm/nsdimagerybetas_fithrf_GLMdenoise_RR"
        )
        x, y, z = np.meshgrid(*map(np.arange, SHAPE), indexing="ij")
        trial = np.arange(720)[:, None, None, None]
        stored = (trial * 30 + x + y + z).astype(np.int16)
        with h5py.File(betas / "betas_nsdimagery.hdf5", "w") as file:
            file.create_dataset("betas", data=stored.transpose(0, 3, 2, 1), chunks=(720, 1, 1, 1))
        self.stored = stored
        return self


def load(tree, **options):
    options = {"task": "vision", "order": "presented", "units": "percent", **options}
    return load_nsd_imagery(tree.nsd.root, 5, verbose=False, **options)


@pytest.fixture
def tree(tmp_path):
    return ImageryTree(tmp_path).write()


@pytest.mark.parametrize("order", ["presented", "condition"])
@pytest.mark.parametrize(("task", "n_repeats"), [("vision", 8), ("imagery", 16)])
def test_every_beta_is_at_its_target(tree, order, task, n_repeats):
    data = load(tree, order=order, task=task)
    inside = tree.nsd.nsdgeneral == 1
    assert data.betas.shape == (12, n_repeats, int(inside.sum()))
    places, prefix = tree.places(order), {"vision": "vis", "imagery": "img"}[task]
    image = 0
    for letter in "AB":
        for number, code in enumerate(LETTERS[letter]):
            rows = [
                places[run][trial]
                for run in RUNS
                if run.startswith(prefix + letter)
                for trial in range(48)
                if tree.letters(run)[trial] == code
            ]
            expected = tree.stored[rows][:, inside] / 300
            np.testing.assert_allclose(data.betas[image], expected, rtol=1e-6)
            value = 10 * (number + 1) + (100 if letter == "B" else 0)
            assert data.images[image][0, 0, 0] == value
            of_image = data.trials[data.trials["image"] == image]
            assert of_image["trial"].tolist() == rows
            assert set(of_image["target"]) == {code}
            assert set(of_image["set"]) == {letter}
            assert set(of_image["stimulus"]) == {f"{letter}_{code}.png"}
            image += 1
    runs = {1 + i for i, run in enumerate(RUNS) if run.startswith((prefix + "A", prefix + "B"))}
    assert set(data.trials["run"]) == runs


def test_one_set(tree):
    data = load(tree, sets="B")
    both = load(tree)
    np.testing.assert_array_equal(data.betas, both.betas[6:])
    np.testing.assert_array_equal(data.images, both.images[6:])
    assert "nsd_ncsnr" in data.voxels
    assert data.name == "NSD-imagery subj05"


def test_words_have_no_pictures(tree):
    with pytest.raises(ValueError, match=r"6 targets have no picture, .*setC/C_G\.png .* leave"):
        load(tree, sets="ABC")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "attention"}, "task='attention' must be one of 'vision', 'imagery'"),
        ({"order": "run"}, "order='run' must be one of"),
        ({"sets": ""}, "sets='' must be of the letters"),
        ({"sets": "AD"}, "sets='AD' must be of the letters"),
        ({"units": "z"}, "units='z' must be one of"),
    ],
)
def test_arguments_that_are_refused(tree, options, message):
    with pytest.raises(ValueError, match=message):
        load(tree, **options)


def test_what_is_missing_is_listed(tree):
    for name in ("nsdimagery_subj05_visB.tsv", "A_pair_list.mat"):
        next(tree.nsd.root.rglob(name)).unlink()
    with pytest.raises(FileNotFoundError, match="2 files of NSD") as error:
        load(tree)
    assert "nsddata/bdata/nsdimagery/nsdimagery_subj05_visB.tsv" in str(error.value)


def test_logs_and_lists_of_another_layout_are_refused(tree):
    path = next(tree.nsd.root.rglob("nsdimagery_subj05_visB.tsv"))
    table = pd.read_csv(path, sep="\t")
    table[1:].to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match=r"visB\.tsv must list the trials 1 … 48"):
        load(tree)
    table.assign(CONDITION="Z").to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match=r"visB\.tsv has \['Z'\] in CONDITION, but targets are"):
        load(tree)
    table.drop(columns="CONDITION").to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match=r"visB\.tsv has no column \['CONDITION'\]"):
        load(tree)
    pairs = next(tree.nsd.root.rglob("A_pair_list.mat"))
    savemat(pairs, {"pair_list": np.ones((6, 3))})
    with pytest.raises(ValueError, match=r"A_pair_list\.mat must hold pair_list, 6 × 3 cells"):
        load(tree)
