"""MindEye2's decoding net without its diffusion prior: responses to tokens, of several subjects."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from brainenc.nets._mlp import MLPBlock


class MindEyeNet(nn.Module):
    """Responses to the tokens of their image, with a linear layer of its own for each subject.

    Linear from voxels to `width`, of each subject → residual blocks → linear to the tokens. The
    retrieval head, which is compared with candidates, reads the tokens one by one, or with
    ``head_layers=0`` is a second linear layer after the blocks.

    Parameters
    ----------
    n_voxels : sequence of int
        Voxels of each subject.
    n_tokens, token_width : int
    width, n_blocks : int
    dropout : float
        In the blocks.
    input_dropout : float
        Of the voxels.
    head_layers : int
        Layers (norm, GELU, linear) of the retrieval head.

    Attributes
    ----------
    sizes : dict
        The parameters: ``MindEyeNet(**net.sizes)`` is a net of the same shape.
    centre, scale : buffers, shapes (n_tokens * token_width,) and ()
        Mean and s.d. of the targets, which `normalise` uses.

    References
    ----------
    Scotti et al. (2024), MindEye2, ICML. Its blocks have a second part that acts on an axis of
    length one, whose layer norm returns a constant; it is left out.
    """

    def __init__(
        self,
        n_voxels: Sequence[int],
        n_tokens: int,
        token_width: int,
        *,
        width: int = 256,
        n_blocks: int = 2,
        dropout: float = 0.3,
        input_dropout: float = 0.3,
        head_layers: int = 0,
    ):
        super().__init__()
        self.sizes: dict[str, Any] = {
            "n_voxels": tuple(n_voxels),
            "n_tokens": n_tokens,
            "token_width": token_width,
            "width": width,
            "n_blocks": n_blocks,
            "dropout": dropout,
            "input_dropout": input_dropout,
            "head_layers": head_layers,
        }
        n_outputs = n_tokens * token_width
        self.centre: Tensor
        self.scale: Tensor
        self.input_dropout = nn.Dropout(input_dropout)
        self.read_in = nn.ModuleList(nn.Linear(n, width) for n in n_voxels)
        self.blocks = nn.Sequential(*(MLPBlock(width, dropout) for _ in range(n_blocks)))
        self.read_out = nn.Linear(width, n_outputs)
        if head_layers:
            layers = [_head_layer(token_width) for _ in range(head_layers)]
            self.head: nn.Module = nn.Sequential(*layers)
        else:
            self.head = nn.Linear(width, n_outputs)
        self.register_buffer("centre", torch.zeros(n_outputs))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, responses: Tensor, subjects: Tensor | int = 0) -> tuple[Tensor, Tensor]:
        """Normalised tokens and output of the retrieval head, each (batch, n_outputs).

        Parameters
        ----------
        responses : tensor, shape (batch, n_voxels)
            Further columns than a subject's voxels are left out.
        subjects : tensor of int, shape (batch,), or int
            Subject of each response, or of all.
        """
        x = self.blocks(self._read(self.input_dropout(responses), subjects))
        tokens = self.read_out(x)
        if isinstance(self.head, nn.Linear):
            return tokens, self.head(x)
        one_by_one = tokens.unflatten(1, (self.sizes["n_tokens"], -1))
        return tokens, self.head(one_by_one).flatten(1)

    def _read(self, responses: Tensor, subjects: Tensor | int) -> Tensor:
        if isinstance(subjects, int):
            n = self.sizes["n_voxels"][subjects]
            return self.read_in[subjects](responses[:, :n])
        found = responses.new_zeros(len(responses), self.sizes["width"])
        for subject, n in enumerate(self.sizes["n_voxels"]):
            rows = (subjects == subject).nonzero()[:, 0]
            if len(rows):
                read = self.read_in[subject](responses[rows, :n])
                found = found.index_copy(0, rows, read.to(found.dtype))
        return found

    def normalise(self, targets: Tensor) -> Tensor:
        """Targets (batch, n_outputs) in the units of the outputs."""
        return (targets - self.centre) / self.scale

    def tokens(self, responses: Tensor, subject: int = 0) -> Tensor:
        """Predicted tokens of one subject's responses, in the units of targets, flattened."""
        return self.forward(responses, subject)[0] * self.scale + self.centre

    def embeddings(self, responses: Tensor, subject: int = 0) -> Tensor:
        """Output of the retrieval head, with the length of a target, in the units of targets.

        The loss depends on its direction only. The length is √n_outputs normalised units, about
        that of the targets.
        """
        head = nn.functional.normalize(self.forward(responses, subject)[1], dim=1)
        return head * head.shape[1] ** 0.5 * self.scale + self.centre

    @torch.no_grad()
    def start_linear(self, basis: Tensor) -> None:
        """Make the net linear, with the columns of a basis (n_outputs, k) as outputs.

        Then the tokens, and those of a head that is linear, are ``basis`` times the first k values
        of the read-in.
        """
        for block in self.blocks:
            last: Any = list(block.get_submodule("layers").children())[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        k = basis.shape[1]
        for layer in (self.read_out, self.head):
            if isinstance(layer, nn.Linear):
                layer.weight[:, :k] = basis
                nn.init.zeros_(layer.bias)


def _head_layer(width: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(width), nn.GELU(), nn.Linear(width, width))
