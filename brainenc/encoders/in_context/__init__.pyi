from .encoder import InContextEncoder as InContextEncoder
from .pretrained import InContextPretraining as InContextPretraining
