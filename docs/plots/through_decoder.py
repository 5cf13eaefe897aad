"""Score through a decoder against agreement with measured responses, for its page."""

import matplotlib.pyplot as plt
import pandas as pd

table = pd.read_csv("../results/through_decoder_scores.csv")
table = table[table["similarity"] == "centred"].set_index("responses")
measured = table.loc["measured, mean of repeats"]
shown = table[table["kind"] != "measured"]
titles = {"image_retrieval": "image retrieval", "brain_retrieval": "brain retrieval"}
figure, panels = plt.subplots(1, 2, figsize=(9.6, 4.2), sharey=True, layout="constrained")
for axes, (direction, title) in zip(panels, titles.items(), strict=True):
    for (name, row), color in zip(shown.iterrows(), plt.get_cmap("tab20").colors, strict=False):
        marker = "s" if row["kind"] == "reference" else "o"
        axes.plot(row["voxel_r"], 100 * row[direction], marker, color=color, ms=8, label=name)
    axes.axhline(100 * measured[direction], color="0.4", ls="--", lw=1, label="measured")
    chance = 100 * measured[f"{direction}_chance"]
    axes.axhline(chance, color="0.7", ls=":", lw=1, label="chance")
    axes.set(title=title, xlabel="mean r over voxels with measured responses", ylim=(-2, 103))
panels[0].set_ylabel("top-1 of 300, percent")
panels[1].legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
