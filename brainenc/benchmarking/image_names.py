"""Names of the image files of a data set, as the user gave them."""

import os
import re

from brainenc.data.encoding_data import EncodingData
from brainenc.data.image_ids import names_of

#: What `EncodingData.save` puts before the names of image files.
_NUMBER = re.compile(r"^[0-9]{6}_")


def image_names(data: EncodingData) -> list[str] | None:
    """Path of each image's file; for those of a ``.brain`` folder the name of the file it was from.

    Parameters
    ----------
    data : EncodingData

    Returns
    -------
    list of str, or None for images that are no files
    """
    names = names_of(data.images)
    if names is None:
        return None
    paths = list(map(str, names))
    files = [os.path.basename(path) for path in paths]
    in_folder = all(os.path.basename(os.path.dirname(path)) == "images" for path in paths)
    if in_folder and all(map(_NUMBER.match, files)):
        return [_NUMBER.sub("", file) for file in files]
    return paths
