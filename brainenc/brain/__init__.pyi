from .pycortex import to_pycortex as to_pycortex
from .surfaces import to_surface as to_surface
from .volumes import Volume as Volume
from .volumes import to_nifti as to_nifti
