from .surfaces import to_surface as to_surface
from .synbrain_checkpoint import read_s2n as read_s2n
from .synbrain_checkpoint import read_vae as read_vae
from .synbrain_checkpoint import write_s2n as write_s2n
from .synbrain_checkpoint import write_vae as write_vae
from .volumes import to_nifti as to_nifti
