"""What decoders and encoders show about responses: analyses, each with its null."""

from brainenc.lazy_names import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
