"""Time and memory of fits against voxels, images and tokens, for the page on speed."""

import matplotlib.pyplot as plt
import pandas as pd

COLOURS = {"RidgeEncoder": "#0072B2", "LatentEncoder": "#D55E00"}
LABELS = {"CPU s": "processor time, s", "MiB": "memory beyond the data, MiB"}

points = pd.read_csv("../results/scaling_points.csv")
exponents = pd.read_csv("../results/scaling_exponents.csv").set_index(["encoder", "axis"])
figure, panels = plt.subplots(
    *(2, 3), figsize=(9.6, 5.4), layout="constrained", sharex="col", sharey="row"
)
for row, (measure, label) in zip(panels, LABELS.items(), strict=True):
    row[0].set_ylabel(label)
    for axes, axis in zip(row, ["voxels", "images", "tokens"], strict=True):
        for encoder, colour in COLOURS.items():
            some = points[(points.encoder == encoder) & (points.axis == axis)]
            exponent = exponents.loc[(encoder, axis), measure]
            axes.loglog(
                some["size"],
                some[measure],
                "o-",
                ms=4,
                c=colour,
                label=f"{encoder}: {exponent:.2f}",
            )
        sizes = sorted(points[points.axis == axis]["size"].unique())
        axes.set_xticks(sizes, sizes)
        axes.minorticks_off()
        axes.legend(fontsize=8, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
for axes, axis in zip(panels[1], ["voxels", "images", "tokens"], strict=True):
    axes.set_xlabel(axis)
