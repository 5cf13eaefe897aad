from .brainvae import BrainVAE as BrainVAE
from .brainvae import sample_latent as sample_latent
from .losses import kl_divergence as kl_divergence
from .losses import reconstruction_loss as reconstruction_loss
from .losses import soft_clip_loss as soft_clip_loss
from .losses import synbrain_vae_loss as synbrain_vae_loss
from .s2n import S2N as S2N
