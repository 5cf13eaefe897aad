"""Validation images of a fit: checked, scaled and averaged as training images are."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from brainenc.decoders.responses import check_every_image, check_responses
from brainenc.repeats import average_repeats


@dataclass(frozen=True)
class HeldImages:
    """Images that nothing is learned from, which stop a training or choose a penalty.

    Attributes
    ----------
    averages : array, shape (n_images, n_voxels)
        Scaled with the mean and s.d. of the training images.
    targets : array, shape (n_images, n_dimensions)
    """

    averages: np.ndarray
    targets: np.ndarray

    @classmethod
    def of(cls, decoder: Any, validation: Any) -> "HeldImages | None":
        """Of `validation`, a pair (betas, targets), by the scaling of a decoder; None of None.

        Raises
        ------
        ValueError, TypeError : no pair; betas or targets that do not fit those of the training.
        """
        if validation is None:
            return None
        if not isinstance(validation, tuple | list) or len(validation) != 2:
            raise TypeError(
                f"validation of type {type(validation).__name__} must be a pair (betas, targets) "
                "of images that are not among the training images"
            )
        betas = check_responses(decoder, validation[0], reset=False)
        check_every_image(betas)
        targets = decoder._targets_of(validation[1], len(betas))
        return cls(average_repeats(decoder.scaling_.apply(betas)), targets)
