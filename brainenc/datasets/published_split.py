"""Training and test images as the authors of a data set chose them."""

import numpy as np

from brainenc.data.encoding_data import EncodingData

#: Column of the trial table with the part that a trial belongs to.
SPLIT = "split"


def published_test_mask(data: EncodingData) -> np.ndarray:
    """Mask of the images that the authors of a data set keep for testing.

    ``data.train_test(published_test_mask(data))`` is their split. It reads the column ``split`` of
    the trial table, which `load_bold5000`, `load_things_fmri` and `load_generic_object_decoding`
    make. For NSD use `shared_test_mask`, for LAION-fMRI `laion_fmri_split`.

    Parameters
    ----------
    data : EncodingData

    Returns
    -------
    array of bool, shape (n_images,)

    Raises
    ------
    ValueError : there is no such column; an image is in both parts; or no image is for testing.

    Examples
    --------
    >>> import pandas as pd
    >>> trials = pd.DataFrame({"image": [0, 1], "repeat": 0, "split": ["train", "test"]})
    >>> images, betas = np.zeros((2, 8, 8), np.uint8), np.ones((2, 1, 3))
    >>> published_test_mask(EncodingData(images, betas, trials=trials)).tolist()
    [False, True]
    """
    if SPLIT not in data.trials:
        raise ValueError(
            f"the trial table has no column {SPLIT!r}: it is of no data set with a published split"
        )
    in_test = data.trials[SPLIT].to_numpy() == "test"
    image = data.trials["image"].to_numpy()
    test, other = np.zeros(data.n_images, bool), np.zeros(data.n_images, bool)
    test[image[in_test]], other[image[~in_test]] = True, True
    if (test & other).any():
        both = int(np.argmax(test & other))
        raise ValueError(
            f"image {both} has trials of {SPLIT} 'test' and others: one image, one part"
        )
    if not test.any():
        parts = sorted(set(data.trials[SPLIT].dropna()))
        raise ValueError(f"no trial has {SPLIT} 'test', but {parts}: load the test part, too")
    return test
