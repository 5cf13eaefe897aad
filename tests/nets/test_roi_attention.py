import numpy as np
import pytest
import synbrain_oracles as oracles
import torch

from brainenc.nets import ROIAttention, ROIReadOut
from brainenc.nets.roi_attention import grid_side, token_positions

ROIS = [2, 0, 1, 0, 2, 2, 1]


def random(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


def norm(x, weights):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * weights["weight"] + weights["bias"]


def by_hand(net, tokens, n_heads):
    """Attention and responses in NumPy, one image, head and voxel at a time."""
    weights = oracles.as_arrays(net)
    part = lambda name: oracles.part(weights, name)  # noqa: E731
    places = net.positions.double().numpy()
    q_in, k_in, v_in = np.split(weights["attend.in_proj_weight"], 3)
    q_bias, k_bias, v_bias = np.split(weights["attend.in_proj_bias"], 3)
    attention, responses = [], []
    for image in tokens.double().numpy():
        values = oracles.linear(image, part("project")) if part("project") else image
        q = weights["queries"] @ q_in.T + q_bias
        k, v = (values + places) @ k_in.T + k_bias, values @ v_in.T + v_bias
        heads, looks = [], []
        for rows in np.split(np.arange(q.shape[1]), n_heads):
            looks.append(oracles.softmax(q[:, rows] @ k[:, rows].T / np.sqrt(len(rows))))
            heads.append(looks[-1] @ v[:, rows])
        x = oracles.linear(np.concatenate(heads, axis=1), part("attend.out_proj"))
        hidden = np.maximum(oracles.linear(norm(x, part("mlp.0")), part("mlp.1")), 0)
        x = norm(x + oracles.linear(hidden, part("mlp.4")), part("norm"))
        # The masked form: every query to all voxels, zero outside its ROI, summed.
        mask = np.equal.outer(np.arange(len(x)), net.sizes["rois"])
        read_out = part("read_out")
        responses.append((oracles.linear(x, read_out) * mask).sum(axis=0))
        attention.append(np.mean(looks, axis=0))
    return np.stack(attention), np.stack(responses)


@pytest.mark.parametrize(("n_tokens", "hidden"), [(9, 8), (5, None), (1, 8), (7, 8)])
def test_the_net_is_a_decoder_layer_and_a_masked_read_out(n_tokens, hidden):
    net = ROIAttention(n_tokens, 12, ROIS, hidden=hidden, n_heads=4, feed_forward=10)
    oracles.randomised(net, seed=1, scale=0.5)
    tokens = random(3, n_tokens, 12)
    with torch.no_grad():
        attention, responses = net.attention(tokens).numpy(), net(tokens).numpy()
    expected = by_hand(net, tokens, 4)
    # float32 against double.
    np.testing.assert_allclose(attention, expected[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(responses, expected[1], rtol=1e-4, atol=1e-5)


def test_the_read_out_is_the_masked_sum_in_value_and_gradient():
    read_out = oracles.randomised(ROIReadOut(6, ROIS), seed=3)
    found = random(4, 3, 6).requires_grad_()
    mask = torch.from_numpy(np.equal.outer(np.arange(3), ROIS)).float()
    masked = ((found @ read_out.weight.T + read_out.bias) * mask).sum(dim=1)
    torch.testing.assert_close(read_out(found), masked, rtol=1e-5, atol=1e-6)
    pull = random(4, 7, seed=1)
    ours, theirs = (
        torch.autograd.grad((out * pull).sum(), [found, read_out.weight, read_out.bias])
        for out in (read_out(found), masked)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_voxel_depends_on_the_query_of_its_roi_and_on_no_other():
    net = oracles.randomised(ROIAttention(9, 8, ROIS, n_heads=2), seed=2)
    tokens = random(2, 9, 8)
    for voxel, roi in enumerate(ROIS):
        (gradient,) = torch.autograd.grad(net(tokens)[:, voxel].sum(), net.queries)
        assert (gradient.abs().sum(dim=1) > 0).tolist() == [k == roi for k in range(3)]


def test_a_query_without_voxels_is_allowed():
    net = oracles.randomised(ROIAttention(4, 8, [0, 2, 2], n_heads=2), seed=2)
    tokens = random(2, 4, 8)
    assert net(tokens).shape == (2, 3)
    assert net.attention(tokens).shape == (2, 3, 4)


def test_self_attention_of_a_first_layer_would_add_one_vector_to_all_queries():
    """Why it is left out: the values are the norm of zeros, whatever the queries are."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerDecoderLayer(8, 2, 10, dropout=0.0, norm_first=True)
    oracles.randomised(layer, seed=4)
    start = layer.norm1(torch.zeros(1, 5, 8))
    queries = random(1, 5, 8)
    added = layer.self_attn(start + queries, start + queries, start)[0]
    torch.testing.assert_close(added, added[:, :1].expand_as(added), rtol=1e-5, atol=1e-6)


def test_the_published_sizes():
    with torch.device("meta"):
        net = ROIAttention(961, 768, [k % 50 for k in range(20_000)])
    attention, mlp = 4 * (768 * 768 + 768), 768 * 1024 + 1024 + 1024 * 768 + 768
    expected = 50 * 768 + attention + mlp + 2 * 2 * 768 + 20_000 * 769
    assert sum(p.numel() for p in net.parameters()) == expected == 19_358_496


def test_sizes_rebuild_the_net():
    net = oracles.randomised(ROIAttention(5, 12, np.array(ROIS), hidden=8, n_heads=2), seed=5)
    again = ROIAttention(**net.sizes).eval()
    again.load_state_dict(net.state_dict())
    tokens = random(2, 5, 12)
    assert torch.equal(again(tokens), net(tokens))


def test_a_new_net_predicts_the_mean():
    assert (ROIAttention(4, 8, ROIS, n_heads=2)(random(3, 4, 8)) == 0).all()


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"hidden=12 must be a multiple of 4.* n_heads=8"):
        ROIAttention(4, 8, ROIS, hidden=12, n_heads=8)
    with pytest.raises(ValueError, match="width=6"):
        ROIAttention(4, 6, ROIS, n_heads=2)


# ------------------------------------------------------------------ places in the image


def test_grids_with_and_without_a_class_token():
    sides = {1: 1, 2: 1, 4: 2, 5: 2, 16: 4, 49: 7, 50: 7, 257: 16, 961: 31, 3: None, 7: None}
    assert {n: grid_side(n) for n in sides} == sides


def test_positions_tell_rows_from_columns():
    positions = token_positions(9, 8).reshape(3, 3, 8)
    assert (positions[1, :, :4] == positions[1, :1, :4]).all()  # one row
    assert (positions[:, 2, 4:] == positions[:1, 2, 4:]).all()  # one column
    assert len(positions.reshape(9, 8).unique(dim=0)) == 9
    # By the formula: sines of the row, frequencies from 1 down.
    expected = np.sin(2 * 10_000 ** -np.array([0, 0.5]))
    np.testing.assert_allclose(positions[2, 0, :2], expected, rtol=1e-6)
    with_class = token_positions(10, 8)
    assert (with_class[0] == 0).all()
    torch.testing.assert_close(with_class[1:], positions.reshape(9, 8))
