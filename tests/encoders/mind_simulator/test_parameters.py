import pytest

from brainenc.encoders.mind_simulator.parameters import SIZES, all_sizes


def test_an_unknown_size_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"sizes has \['widht'\]; there are \['n_latents', "):
        all_sizes({"widht": 8})


def test_a_dict_replaces_sizes_of_auto():
    assert all_sizes({"width": 8}) == SIZES["auto"] | {"width": 8}
