"""MindEyeNet: its published size, its subjects, its linear start."""

import numpy as np
import torch

from brainenc.decoders.mind_eye_training import PRESETS
from brainenc.nets import MindEyeNet


def test_the_published_net_has_the_published_number_of_weights():
    with torch.device("meta"):
        net = MindEyeNet((15724,), 256, 1664, **PRESETS["published"].sizes)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    n, h, tokens = 15724, 4096, 256 * 1664
    assert count["read_in"] == n * h + h
    assert count["blocks"] == 4 * (2 * h + 2 * (h * h + h))
    assert count["read_out"] == h * tokens + tokens  # 1.75 of 2.21 billion
    assert round(count["read_out"] / 1e9, 2) == 1.75
    assert count["head"] == 3 * (2 * 1664 + 1664 * 1664 + 1664)
    assert sum(count.values()) == 1_887_861_376 + (n * h + h)


def make(n_voxels=(6, 9), **sizes):
    torch.manual_seed(0)
    return MindEyeNet(n_voxels, 3, 4, width=8, **sizes).eval()


def test_each_subject_has_its_read_in_and_shares_the_rest():
    for layers in (0, 2):
        net = make(head_layers=layers)
        rows = torch.randn(5, 9)
        subjects = torch.tensor([0, 1, 1, 0, 1])
        together = net(rows, subjects)
        for subject in (0, 1):
            mine = subjects == subject
            for both, one in zip(together, net(rows[mine], subject), strict=True):
                torch.testing.assert_close(both[mine], one)
        # Columns beyond the voxels of subject 0 are padding.
        other = rows.clone()
        other[:, 6:] = 100
        torch.testing.assert_close(net(other, 0), net(rows, 0))


def test_the_linear_start_is_the_product_with_the_basis():
    net = make()
    basis = torch.linalg.qr(torch.randn(12, 5)).Q
    net.start_linear(basis)
    rows = torch.randn(4, 6)
    with torch.no_grad():
        # Outputs of the read-in beyond the basis do not matter if they are 0.
        net.read_in[0].weight[5:] = 0
        net.read_in[0].bias[5:] = 0
        wanted = net.read_in[0](rows)[:, :5] @ basis.T
        for found in net(rows, 0):
            torch.testing.assert_close(found, wanted)


def test_outputs_are_in_the_units_of_targets():
    net = make()
    net.centre.copy_(torch.arange(12.0))
    net.scale.fill_(3.0)
    rows = torch.randn(4, 6)
    with torch.no_grad():
        tokens, head = net(rows, 0)
        torch.testing.assert_close(net.normalise(net.tokens(rows)), tokens)
        found = net.normalise(net.embeddings(rows))
    lengths = found.norm(dim=1).numpy()
    np.testing.assert_allclose(lengths, np.sqrt(12), rtol=1e-5)
    torch.testing.assert_close(
        found / found.norm(dim=1, keepdim=True), head / head.norm(dim=1, keepdim=True)
    )
