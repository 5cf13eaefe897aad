"""Values per voxel as NIfTI volumes; written below `EncodingData`, which uses them too."""

from brainenc.volumes import to_nifti

__all__ = ["to_nifti"]
