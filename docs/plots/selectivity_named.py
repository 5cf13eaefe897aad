"""Shares of named voxels by kind, from the table of benchmarks/selectivity.py."""

import matplotlib.pyplot as plt
import pandas as pd

from brainenc.report import styled

table = pd.read_csv("../results/selectivity.csv")
simulated = table[table["data"].str.startswith("simulated")]
parts = {
    "simulated subjects": simulated.groupby("kind")["named"].mean()[
        ["category", "concept", "early", "noise"]
    ],
    "macaque V4": table[table["data"].str.startswith("macaque")].set_index("kind")["named"],
}
with styled():
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.4), sharey=True, width_ratios=(2, 1))
    for panel, (title, named) in zip(axes, parts.items(), strict=True):
        grey = [kind in ("noise", "permuted") for kind in named.index]
        colors = ["#a3acb5" if is_null else "#0072B2" for is_null in grey]
        bars = panel.bar(named.index, named, color=colors, width=0.7)
        panel.bar_label(bars, [f"{share:.2f}" for share in named])
        panel.set_title(title)
    axes[0].set_ylabel("share named")
    axes[0].set_ylim(0, 1.12)
