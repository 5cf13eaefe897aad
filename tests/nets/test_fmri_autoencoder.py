"""MindSimulator's autoencoder: published size, shapes, gradients."""

import pytest
import torch

from brainenc.nets import FMRIAutoencoder


def test_the_published_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        net = FMRIAutoencoder(15_724)
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()
    }
    assert round(sum(counts.values()) / 1e6, 1) == 211.6
    # By hand: linear layers have in · out + out, norms 2 · width.
    v, h, z = 15_724, 256, 257 * 768
    blocks = 2 * (2 * h + 2 * (h * h + h))
    narrow, widen = z * h + h, h * z + z
    projector = 2 * z + narrow + 2 * h + h * h + h + 2 * h + widen
    assert counts["encoder"] == v * h + h + blocks + widen + projector
    assert counts["decoder"] == narrow + blocks + h * v + v


def test_shapes_and_sizes():
    net = FMRIAutoencoder(11, 3, 4, hidden=8, n_blocks=1)
    decoded, z = net(torch.randn(5, 11))
    assert decoded.shape == (5, 11)
    assert z.shape == (5, 3, 4)
    torch.testing.assert_close(net.eval().decode(z), net.decode(z))
    again = FMRIAutoencoder(**net.sizes)
    again.load_state_dict(net.state_dict())
    with pytest.raises(ValueError, match="hidden=0"):
        FMRIAutoencoder(11, 3, 4, hidden=0)
