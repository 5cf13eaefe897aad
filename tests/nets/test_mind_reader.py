import numpy as np
import pytest
import synbrain_oracles as oracles
import torch

from brainenc.nets import MindReaderNet, mind_reader_loss


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def relu(x):
    return np.maximum(x, 0)


def transposed(x, w):
    """Transposed convolution, kernel 4, stride 2, padding 1, by its definition."""
    kernel, length = w["weight"], x.shape[1]
    out = np.zeros((kernel.shape[1], 2 * length + 2))
    for i in range(length):
        out[:, 2 * i : 2 * i + 4] += np.tensordot(x[:, i], kernel, 1)
    return out[:, 1:-1] + w["bias"][:, None]


def by_hand(net, embedding, n_blocks, n_convolutions):
    """The net in NumPy for one image."""
    weights = oracles.as_arrays(net)
    part = lambda name: oracles.part(weights, name)  # noqa: E731
    x = oracles.conv(embedding[None], part("conv_in"))
    for b in range(n_blocks):
        y = x
        for c in range(n_convolutions):
            y = oracles.conv(y if c == 0 else relu(y), part(f"blocks.{b}.convolutions.{c}"))
        x = relu(x + y)
    x = oracles.conv(relu(transposed(x, part("upsample"))), part("conv_out"))[0]
    return oracles.linear(relu(oracles.linear(x, part("linear"))), part("read_out"))


@pytest.mark.parametrize("kernels", [(3, 3, 1), (5, 3)])
def test_the_net_is_convolutions_then_two_linear_layers(kernels):
    net = MindReaderNet(9, 7, n_channels=4, n_blocks=2, kernels=kernels, hidden=5, dropout=0.4)
    oracles.randomised(net, seed=1, scale=0.4)
    embeddings = random(3, 9)
    with torch.no_grad():
        ours = net(embeddings).numpy()
    expected = [by_hand(net, row, 2, len(kernels)) for row in embeddings.double().numpy()]
    # float32 against double.
    np.testing.assert_allclose(ours, np.stack(expected), rtol=1e-4, atol=1e-5)


def test_the_published_sizes():
    with torch.device("meta"):
        net = MindReaderNet(512, 10_000)
    # Weights and biases of 1 → 64, four blocks of kernels 3, 3, 1, transposed, 64 → 1.
    block = 2 * (64 * 64 * 3 + 64) + 64 * 64 + 64
    convolutions = (64 * 3 + 64) + 4 * block + (64 * 64 * 4 + 64) + (64 * 3 + 1)
    expected = convolutions + (1024 * 128 + 128) + (128 * 10_000 + 10_000)
    assert sum(p.numel() for p in net.parameters()) == expected == 1_553_553
    assert net(torch.empty(2, 512, device="meta")).shape == (2, 10_000)


def test_sizes_rebuild_the_net():
    net = MindReaderNet(9, 7, n_channels=4, n_blocks=1, kernels=(3, 1), hidden=5, dropout=0.1)
    again = MindReaderNet(**net.sizes)
    again.load_state_dict(net.state_dict())
    embeddings = random(3, 9)
    assert torch.equal(again.eval()(embeddings), net.eval()(embeddings))
    assert again.dropout.p == 0.1


# ------------------------------------------------------------------ loss


def slow_loss(predictions, targets):
    squared, distances = [], []
    for p, t in zip(predictions, targets, strict=True):
        known = ~np.isnan(t)
        squared += list((p[known] - t[known]) ** 2)
        if known.any():
            a, b = p[known], t[known]
            distances.append(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return 0.4 * np.mean(squared) + 0.6 * np.mean(distances)


def test_the_loss_leaves_out_what_is_missing():
    predictions, targets = random(6, 5, seed=1).requires_grad_(), random(6, 5, seed=2)
    targets[0, 2:] = torch.nan
    targets[3] = torch.nan
    loss = mind_reader_loss(predictions, targets)
    expected = slow_loss(predictions.detach().double().numpy(), targets.double().numpy())
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert ((predictions.grad == 0) == targets.isnan()).all()


def test_nothing_measured_is_no_loss_and_no_gradient():
    predictions = random(3, 4).requires_grad_()
    loss = mind_reader_loss(predictions, torch.full((3, 4), torch.nan))
    loss.backward()
    assert loss.item() == 0
    assert (predictions.grad == 0).all()
