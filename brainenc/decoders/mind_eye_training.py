"""Training of MindEyeDecoder: rows of several subjects, held-out images, losses of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from brainenc.decoders.held_images import HeldImages
from brainenc.decoders.subjects import (
    PaddedBetas,
    SubjectData,
    present_repeats,
    same_targets,
)
from brainenc.encoders.network import Preset
from brainenc.model_selection import image_folds
from brainenc.nets import MindEyeNet, bimixco_loss, info_nce, mixing_partners, soft_clip_loss
from brainenc.repeats import average_repeats
from brainenc.training import Cosine, Examples, OneCycle

PRESETS = {
    "auto": Preset(
        sizes={},
        training={
            "n_epochs": 60,
            "batch_size": 128,
            "learning_rate": 3e-4,
            "weight_decay": 0.05,
        },
        settings={"schedule": Cosine(), "clip_norm": 1.0, "warmup_steps": 20},
    ),
    "published": Preset(
        sizes={
            "width": 4096,
            "n_blocks": 4,
            "dropout": 0.15,
            "input_dropout": 0.0,
            "head_layers": 3,
        },
        training={
            "n_epochs": 150,
            "batch_size": 24,
            "learning_rate": 3e-4,
            "weight_decay": 1e-2,
        },
        settings={"schedule": OneCycle(pct_start=2 / 150, final_div=1000)},
        as_published=True,
    ),
}


@dataclass(frozen=True)
class Contrast:
    """Parameters of the losses.

    Attributes
    ----------
    mixing : float
        Temperature of BiMixCo, in the first third of the steps.
    soft : (float, float)
        Temperatures of SoftCLIP at its first and last step, along half a cosine.
    mse_weight : float
        Weight of the squared error of the tokens.
    """

    mixing: float
    soft: tuple[float, float]
    mse_weight: float


#: Cosines of centred targets are spread more than those of tokens with their common mean.
CONTRASTS = {
    "auto": Contrast(0.05, (0.05, 0.08), 1.0),
    "published": Contrast(0.006, (0.004, 0.0075), 30.0),
}

#: Sizes of a net that subjects share.
SHARED_SIZES = ("width", "n_blocks", "dropout", "input_dropout", "head_layers")

MIXED_STEPS = 1 / 3  # of all
MIXED_ROWS = 0.5
#: Both parameters of the beta distribution of the shares.
BETA = 0.15
#: Probability of each repeat to be in a training average.
REPEAT_USED = 0.6


class TrainingRows:
    """Images of all subjects, one after the other."""

    def __init__(self, parts: Sequence[SubjectData]):
        self.parts = parts
        numbers = [len(part.targets) for part in parts]
        self.starts = np.cumsum([0, *numbers])[:-1]
        self.subjects = np.repeat(np.arange(len(parts)), numbers)
        one = parts[0].targets
        self.targets = one if len(parts) == 1 else np.concatenate([p.targets for p in parts])

    def held_out(self, random_state: int) -> Any:
        """A tenth of the images; none of them is among another subject's others."""
        groups = same_targets(self.targets)
        if groups.max() < 9:
            return []
        return image_folds(10, len(groups), groups=groups, random_state=random_state)[0][1]

    def examples(self, used: np.ndarray) -> Examples:
        """An example is an image of a subject."""
        betas = PaddedBetas([part.betas for part in self.parts])
        present = present_repeats(betas.parts, betas.shape[1])
        return Examples(
            betas=(betas, used),
            present=(present, used),
            targets=(self.targets, used),
            subject=(self.subjects, used),
        )

    def evaluation(self, held: np.ndarray, contrast: Contrast) -> Any:
        """Contrastive loss of held-out averages, the mean over subjects."""
        batches = []
        for subject, part in enumerate(self.parts):
            mine = held[self.subjects[held] == subject]
            if len(mine) > 1:
                averages = average_repeats(part.betas[mine - self.starts[subject]])
                pair = (averages, self.targets[mine])
                batches.append((subject, [torch.from_numpy(a.astype(np.float32)) for a in pair]))

        def evaluate(net: MindEyeNet) -> dict[str, float]:
            device = net.scale.device
            losses = []
            for subject, (averages, targets) in batches:
                head = net(averages.to(device), subject)[1]
                wanted = net.normalise(targets.to(device))
                losses.append(info_nce(head, wanted, contrast.soft[1]).item())
            return {"held_out_nce": float(np.mean(losses)) if losses else float("nan")}

        return evaluate


def mind_eye_losses(net: Any, batch: Any, contrast: Contrast) -> dict[str, Tensor]:
    """Contrastive loss of the retrieval head, plus the squared error of the tokens.

    Parameters
    ----------
    net : MindEyeNet
    batch : Batch
        betas (n, n_repeats, n_voxels), 0 where there is none; present (n, n_repeats); targets;
        subject.
    contrast : Contrast

    Returns
    -------
    dict : loss, contrast, mse
    """
    responses = random_averages(batch["betas"], batch["present"], batch.uniform)
    targets, subject = net.normalise(batch["targets"]), batch["subject"]
    if batch.progress < MIXED_STEPS:
        partners = mixing_partners(subject, batch.uniform())
        share = betaincinv(BETA, BETA, batch.uniform().double().cpu().numpy())
        share = torch.from_numpy(share).to(responses)
        share = torch.where(batch.uniform() < MIXED_ROWS, share, torch.ones_like(share))
        own, other = share[:, None], 1 - share[:, None]
        tokens, head = net(own * responses + other * responses[partners], subject)
        loss = bimixco_loss(head, targets, partners, share, contrast.mixing)
        wanted = own * targets + other * targets[partners]
    else:
        tokens, head = net(responses, subject)
        first, last = contrast.soft
        done = (batch.progress - MIXED_STEPS) / (1 - MIXED_STEPS)
        temperature = last + (first - last) * (1 + np.cos(np.pi * done)) / 2
        loss = soft_clip_loss(head, targets, float(temperature))
        wanted = targets
    mse = F.mse_loss(tokens, wanted)
    return {"loss": loss + contrast.mse_weight * mse, "contrast": loss, "mse": mse}


def random_averages(betas: Tensor, present: Tensor, uniform: Any) -> Tensor:
    """Averages of random repeats of each image, of one at least.

    Parameters
    ----------
    betas : tensor, shape (n_images, n_repeats, n_voxels)
        0 where there is none.
    present : tensor of bool, shape (n_images, n_repeats)
    uniform : function (n) -> tensor of random numbers in [0, 1), shape (n_images, n)

    Returns
    -------
    tensor, shape (n_images, n_voxels)
    """
    numbers = torch.where(present, uniform(betas.shape[1]), torch.inf)
    used = (numbers < REPEAT_USED) | (numbers == numbers.min(dim=1, keepdim=True).values)
    weights = (used & present).to(betas.dtype)
    return torch.einsum("irv,ir->iv", betas, weights) / weights.sum(dim=1, keepdim=True)


def monitored_rows(
    rows: TrainingRows, held: Sequence[int] | np.ndarray, validation: HeldImages | None
) -> tuple[TrainingRows, np.ndarray]:
    """Rows and the images of them that the weights are chosen by: those held out, or others."""
    if validation is None:
        return rows, np.asarray(held, dtype=int)
    others = SubjectData(validation.averages[:, None], validation.targets, rows.parts[0].scaling)
    return TrainingRows([others]), np.arange(len(validation.targets))


def normalised(net: MindEyeNet, targets: np.ndarray) -> np.ndarray:
    """Targets (n_images, n_dimensions) in the units of the net, float32."""
    return net.normalise(torch.from_numpy(targets.astype(np.float32))).numpy()


def latents_of(net: MindEyeNet, normal: np.ndarray, basis: np.ndarray | None) -> np.ndarray:
    """Values of the read-in that stand for targets: by a basis, or by the net's last layer."""
    if basis is not None:
        return normal @ basis
    weight, bias = (t.detach().numpy() for t in net.read_out.parameters())
    return np.linalg.lstsq(weight, (normal - bias).T, rcond=None)[0].T


@torch.no_grad()
def tokens_of(net: MindEyeNet, latents: np.ndarray) -> np.ndarray:
    """Tokens, in the units of targets, from values of the read-in."""
    found = net.read_out(net.blocks(torch.from_numpy(latents))) * net.scale + net.centre
    return found.numpy()
