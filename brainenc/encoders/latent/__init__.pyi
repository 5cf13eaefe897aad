from .encoder import LatentEncoder as LatentEncoder
