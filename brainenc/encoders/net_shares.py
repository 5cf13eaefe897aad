"""Table of what networks add to ridge: their weight in the blend, per ROI."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from brainenc.data.voxels import atlas_columns, atlas_labels


def net_shares(
    encoders: Mapping[str, Any], voxels: pd.DataFrame | None = None, *, atlas: str | None = None
) -> pd.DataFrame:
    """Weight of the network in the predictions of blended encoders, per ROI.

    Parameters
    ----------
    encoders : dict of name to fitted encoder
        Those without a blend (``net_share_``) are left out.
    voxels : DataFrame, one row per voxel, optional
        Voxel table of the data; without one, or without an atlas in it, all voxels are one row.
    atlas : str, optional
        Column with labels of ROIs; the first atlas by default.

    Returns
    -------
    DataFrame, one row per (encoder, roi)
        ``roi``, "all" being every voxel; ``n_voxels`` with data; ``net_share``, the mean over these
        voxels of the weight of the network, between 0 and 1: the mean and ridge have the rest.

    Raises
    ------
    ValueError : `voxels` has another number of rows than an encoder has voxels, or no such atlas.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import brainenc
    >>> rng = np.random.default_rng(0)
    >>> features = rng.standard_normal((120, 8)).astype("float32")
    >>> betas = features[:, None, :4] + rng.standard_normal((120, 2, 4))  # 2 repeats, 4 voxels
    >>> encoder = brainenc.MindReaderEncoder(n_members=2, n_epochs=1).fit(features, betas)
    >>> voxels = pd.DataFrame({"roi": ["V1", "V1", "V2", "V2"]})
    >>> table = brainenc.encoders.net_shares({"Mind Reader": encoder}, voxels)
    >>> table["roi"].tolist()
    ['all', 'V1', 'V2']
    """
    labels = None
    if voxels is not None and (columns := [atlas] if atlas else atlas_columns(voxels)[:1]):
        if columns[0] not in voxels:
            raise ValueError(f"atlas={atlas!r} is no column of voxels: {list(voxels.columns)}")
        labels = atlas_labels(voxels, columns[0])
    rows = []
    for name, encoder in encoders.items():
        share = getattr(encoder, "net_share_", None)
        if share is None:
            continue
        if labels is not None and len(labels) != len(share):
            raise ValueError(
                f"voxels has {len(labels)} rows, but encoder {name!r} has {len(share)} voxels: "
                "give the table of the voxels that it was fitted to"
            )
        masks = {"all": np.ones(len(share), dtype=bool)}
        for label in dict.fromkeys([] if labels is None else labels):
            if label:
                masks[label] = labels == label
        for roi, mask in masks.items():
            known = share[mask & np.isfinite(share)]
            mean = float(known.mean()) if len(known) else np.nan
            rows.append({"encoder": name, "roi": roi, "n_voxels": len(known), "net_share": mean})
    return pd.DataFrame(rows, columns=["encoder", "roi", "n_voxels", "net_share"])
