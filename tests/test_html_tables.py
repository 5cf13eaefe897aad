"""What notebooks show: small, and with names escaped."""

import numpy as np
import pandas as pd

import brainenc
from brainenc.html_tables import html_table

BAD = "<script>alert(1)</script>"


def test_all_text_is_escaped():
    found = html_table(BAD, {BAD: BAD}, note=BAD)
    assert "<script" not in found
    assert found.count("&lt;script&gt;") == 4


def test_data_and_ceilings():
    rng = np.random.default_rng(0)
    voxels = pd.DataFrame({"roi": [BAD, "V1", "V1"]})
    images = rng.integers(0, 256, (30, 8, 8), dtype=np.uint8)
    data = brainenc.EncodingData(images, rng.standard_normal((30, 2, 3)), voxels=voxels, name=BAD)
    shown = data._repr_html_()
    assert "<script" not in shown
    assert "30, 8 × 8" in shown
    assert len(shown) < 1000
    ceiling = data.noise_ceiling()._repr_html_()
    assert "3, 0 undefined" in ceiling
    assert ceiling.startswith("<table>")
