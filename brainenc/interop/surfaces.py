"""Values per vertex as GIfTI files; written below `EncodingData`, which uses them too."""

from brainenc.surfaces import to_hemispheres, to_surface

__all__ = ["to_hemispheres", "to_surface"]
