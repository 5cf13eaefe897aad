import math

import numpy as np
import pytest
import synbrain_oracles as oracles
import torch

from brainenc.nets import S2N

SIZES = {"n_tokens": 5, "width": 12, "depth": 2, "n_heads": 3, "mlp_ratio": 2.5}


def small(seed=0, **changes):
    return oracles.randomised(S2N(**{**SIZES, "n_time_features": 8, **changes}), seed)


def tokens(n=3, seed=1):
    return torch.randn(n, 5, 12, generator=torch.Generator().manual_seed(seed))


def millions(net):
    return sum(parameter.numel() for parameter in net.parameters()) / 1e6


def test_published_sizes_have_the_published_number_of_parameters():
    with torch.device("meta"):
        s2n = S2N()
    folded = s2n.fold_time()
    assert round(millions(s2n), 2) == 410.86
    assert round(millions(s2n) - millions(folded), 1) == 141.7
    # What is trained for a new subject.
    assert round(sum(millions(block.mlp) for block in s2n.blocks)) == 177


def test_forward_is_that_of_the_numpy_transformer():
    s2n = small()
    with torch.no_grad():
        latents = s2n(tokens())
    weights = oracles.as_arrays(s2n)
    for image, latent in zip(tokens().double().numpy(), latents.numpy(), strict=True):
        expected = oracles.s2n(image, weights, depth=2, n_heads=3)
        # float32 against float64: about 1e-7 per operation on values of about 1.
        np.testing.assert_allclose(latent, expected, atol=3e-6)


def test_positions_are_sines_and_cosines_of_geometric_frequencies():
    positions = S2N(**SIZES).pos_embed[0]
    for position in range(5):
        for i in range(6):
            angle = position / 10_000 ** (i / 6)
            # Rounded to float32.
            assert positions[position, i].item() == pytest.approx(math.sin(angle), abs=6e-8)
            assert positions[position, 6 + i].item() == pytest.approx(math.cos(angle), abs=6e-8)


def test_before_training_blocks_are_the_identity_and_the_output_is_zero():
    s2n = S2N(**SIZES)
    x = tokens()
    for block in s2n.blocks:
        assert torch.equal(block(x, block.adaLN_modulation(s2n.t_embedder())), x)
    assert torch.equal(s2n(x), torch.zeros_like(x))


def test_training_reaches_every_parameter_but_the_positions():
    s2n = small()
    s2n(tokens()).square().sum().backward()
    for name, parameter in s2n.named_parameters():
        if name == "pos_embed":
            assert not parameter.requires_grad
        else:
            assert parameter.grad.abs().max() > 0, name


def test_folded_time_gives_the_same_latents_without_the_time_weights():
    s2n = small()
    folded = s2n.fold_time()
    with torch.no_grad():
        # The same numbers are multiplied and added, so the bound is that of the specification.
        torch.testing.assert_close(folded(tokens()), s2n(tokens()), atol=1e-6, rtol=0)
    assert not any("adaLN" in name or "t_emb" in name for name, _ in folded.named_parameters())
    with torch.no_grad():
        torch.testing.assert_close(folded.fold_time()(tokens()), folded(tokens()))


def test_bf16_rounds_the_products_with_tokens_and_no_others():
    s2n, dtypes = small(), {}
    for name, layer in s2n.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda _, __, y, name=name: dtypes.update({name: y.dtype}))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = s2n(tokens())
    whole = {name for name, dtype in dtypes.items() if dtype == torch.float32}
    assert whole == {name for name in dtypes if "adaLN" in name or "t_embedder" in name}
    assert len(whole) == 2 + 2 + 1
    with torch.no_grad():
        exact = s2n(tokens())
    # 2^-9 per rounding, in two blocks of four products each.
    assert 0 < (rounded - exact).norm() < 0.03 * exact.norm()


def test_folding_shares_weights_and_leaves_the_mapper_as_it_was():
    s2n = small()
    before = {name: parameter.clone() for name, parameter in s2n.named_parameters()}
    folded = s2n.fold_time()
    shared = dict(folded.named_parameters())
    own = dict(s2n.named_parameters())
    assert all(shared[name].data_ptr() == own[name].data_ptr() for name in shared)
    assert list(own) == list(before)
    assert all(torch.equal(own[name], before[name]) for name in before)


def test_sizes_make_another_of_the_same_shape():
    s2n = small()
    again = S2N(**s2n.sizes)
    again.load_state_dict(s2n.state_dict())
    with torch.no_grad():
        assert torch.equal(again(tokens()), s2n(tokens()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 5}, "width=12 must be divisible by n_heads=5"),
        ({"width": 13, "n_heads": 1}, "width=13 must be even"),
        ({"depth": 0}, "depth=0 must be positive"),
        ({"n_time_features": 7}, "n_time_features=7 must be even"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        S2N(**{**SIZES, **changes})


def test_tokens_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"tokens \(3, 1, 12\) must have shape \(batch, \*\(5, 12"):
        small()(tokens()[:, :1])
