from .alignment import AlignmentCheck as AlignmentCheck
from .alignment import check_alignment as check_alignment
from .encoding_data import EncodingData as EncodingData
from .images import ImageFiles as ImageFiles
from .npz import load_npz as load_npz
from .voxels import atlas_columns as atlas_columns
