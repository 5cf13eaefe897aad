"""Areas of a variance partition: heights are the parts, order and axes are the caller's."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from brainenc.report import NothingToDraw, partition_areas
from brainenc.report.partition_figures import bands_of, running_mean


@pytest.fixture
def voxels():
    """Ten voxels in two ROIs; the second part of B is negative."""
    table = pd.DataFrame(
        {
            "roi": ["A"] * 5 + ["B"] * 4 + [""],
            "unique_one": np.linspace(0.1, 0.5, 10),
            "unique_two": [0.1] * 5 + [-0.05] * 5,
            "shared": 0.2,
            "noise_ceiling": 0.8,
        }
    )
    table["total"] = table[["unique_one", "unique_two", "shared"]].sum(axis=1)
    return table.assign(unique_one_null=0.0, unique_two_null=0.0)


def test_areas_are_stacked_from_the_largest_total_on(voxels):
    axes = partition_areas(voxels).axes
    assert [panel.get_title() for panel in axes] == ["A", "B"]
    total = axes[0].lines[0].get_ydata()
    np.testing.assert_allclose(total, np.sort(voxels["total"][:5])[::-1])
    # Areas above zero and below it, in the order one, shared, two.
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in axes[0].collections]
    np.testing.assert_allclose(tops[::2], np.cumsum([voxels["unique_one"][4], 0.2, 0.1]))
    lowest = [area.get_paths()[0].vertices[:, 1].min() for area in axes[1].collections]
    assert min(lowest) == pytest.approx(-0.05)


def test_order_axes_and_voxels_without_an_atlas(voxels):
    _, axes = plt.subplots(1, 2)
    partition_areas(voxels, order=["B", "A"], ax=axes)
    assert [panel.get_title() for panel in axes] == ["B", "A"]
    assert [panel.get_ylabel() for panel in axes] == ["R²", "R²"]
    plt.close("all")
    (whole,) = partition_areas(voxels.drop(columns="roi")).axes
    assert len(whole.lines[0].get_ydata()) == 10
    assert bands_of(voxels) == ["one", "two"]


def test_wrong_names_and_nothing_to_draw(voxels):
    with pytest.raises(ValueError, match="order has"):
        partition_areas(voxels, order=["C"])
    with pytest.raises(ValueError, match="leaves out"):
        partition_areas(voxels, bands=["one"])
    with pytest.raises(ValueError, match="atlas='areas'"):
        partition_areas(voxels, atlas="areas")
    with pytest.raises(NothingToDraw):
        partition_areas(voxels.assign(total=np.nan))


def test_running_means_leave_undefined_values_out():
    values = np.arange(48, dtype=float)
    np.testing.assert_allclose(running_mean(values)[2:-2], values[2:-2])
    values[10] = np.nan
    assert running_mean(values)[11] == pytest.approx(np.mean([9, 11, 12, 13]))
