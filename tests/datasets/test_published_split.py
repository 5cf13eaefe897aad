"""Test images by the column of the trial table that says the part of each trial."""

import numpy as np
import pandas as pd
import pytest

from brainenc import EncodingData
from brainenc.datasets import published_test_mask


def data_of(parts, image=(0, 1, 1, 2), repeat=(0, 0, 1, 0)):
    trials = pd.DataFrame({"image": image, "repeat": repeat, "split": parts})
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    betas = np.random.default_rng(1).standard_normal((3, 2, 4))
    betas[[0, 2], 1] = np.nan
    return EncodingData(images, betas, trials=trials)


def test_test_images_are_those_whose_trials_are_of_the_test_part():
    data = data_of(["train", "test", "test", "train"])
    assert published_test_mask(data).tolist() == [False, True, False]
    train, test = data.train_test(published_test_mask(data))
    assert (train.n_images, test.n_images) == (2, 1)


def test_the_mask_follows_a_selection_of_images():
    data = data_of(["train", "test", "test", "train"]).select(images=[1, 2])
    assert published_test_mask(data).tolist() == [True, False]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["train", "test", "train", "train"], "image 1 has trials of split 'test' and others"),
        (["train", "imagery", "imagery", "train"], r"no trial has split 'test', but \['imagery'"),
    ],
)
def test_an_image_in_both_parts_and_no_test_part_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        published_test_mask(data_of(parts))


def test_data_of_other_sets_have_no_published_split():
    data = EncodingData(np.zeros((3, 8, 8), np.uint8), np.ones((3, 1, 4)))
    with pytest.raises(ValueError, match="has no column 'split'"):
        published_test_mask(data)
