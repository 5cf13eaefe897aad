"""Images, betas and tables of trials and voxels; folders and files they are kept in."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
