"""Images as arguments: a short address of names in `brainenc.data.images`.

>>> from brainenc.images import as_images
>>> as_images([[[0, 255]]])  # doctest: +ELLIPSIS
Traceback (most recent call last):
...
TypeError: images[0] is a list: a list of images holds paths, PIL images or uint8 arrays, ...
"""

from brainenc.data.image_files import ImageFiles, natural_order
from brainenc.data.images import as_images, looks_like_images, open_images

__all__ = ["ImageFiles", "as_images", "looks_like_images", "natural_order", "open_images"]
