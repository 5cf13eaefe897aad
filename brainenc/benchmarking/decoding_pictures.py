"""Choices to show in a report of decoding, and small pictures of their images."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
from PIL import Image

from brainenc.data.encoding_data import EncodingData
from brainenc.data.images import take_images

#: Choices that are shown of a decoder in a direction, decoders, and pixels of a picture.
N_SHOWN, N_DECODERS, SIZE = 6, 2, 64


def mark_shown(choices: pd.DataFrame, decoders: Sequence[str], seed: int) -> pd.DataFrame:
    """Choices with a column ``shown``: some of the wrong ones of the best decoders, at random.

    Parameters
    ----------
    choices : DataFrame
    decoders : sequence of str
        Best first.
    seed : int
    """
    shown = np.zeros(len(choices), dtype=bool)
    rng = np.random.default_rng(seed)
    for decoder in decoders[:N_DECODERS]:
        for direction in choices["direction"].unique():
            of_row = (choices["decoder"] == decoder) & (choices["direction"] == direction)
            wrong = choices.loc[of_row & (choices["rank"] > 1), "image"].unique()
            some = rng.choice(wrong, min(N_SHOWN, len(wrong)), replace=False)
            shown |= (of_row & choices["image"].isin(some)).to_numpy()
    return choices.assign(shown=shown)


def pictures_of(data: EncodingData, choices: pd.DataFrame) -> pd.DataFrame:
    """Pictures of the images of shown choices: ``image`` and ``png``, base64 of a PNG."""
    shown = choices[choices["shown"]]
    images = np.unique(np.concatenate([shown["image"], shown["wrong_image"]])).astype(int)
    return pd.DataFrame(
        [
            {"image": int(i), "png": _png(np.asarray(take_images(data.images, np.array([i]))[0]))}
            for i in images
        ],
        columns=["image", "png"],
    )


def _png(pixels: np.ndarray) -> str:
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIZE, SIZE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
