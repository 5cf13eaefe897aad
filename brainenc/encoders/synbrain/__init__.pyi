from .checkpoint import read_s2n as read_s2n
from .checkpoint import read_vae as read_vae
from .checkpoint import write_s2n as write_s2n
from .checkpoint import write_vae as write_vae
from .encoder import SynBrainEncoder as SynBrainEncoder
