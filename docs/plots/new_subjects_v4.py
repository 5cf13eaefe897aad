"""Learning curve of a V4 session, for the page on new subjects."""

import matplotlib.pyplot as plt
import pandas as pd

summary = pd.read_csv("../results/new_subjects_v4_summary.csv")
figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
shown = ("ridge", "ridge, prior", "kernel ridge, adapted", "latent, prior", "group mean")
for name in shown:
    own = summary[summary["encoder"] == name]
    axes.plot(own["size"], own["r"], "o-", label=name)
    axes.fill_between(own["size"], own["low"], own["high"], alpha=0.12, lw=0)
axes.axhline(summary["noise_ceiling"].iloc[0], color="0.5", ls="--", lw=1, label="noise ceiling")
axes.set(xscale="log", xlabel="images of the new session", ylabel="mean r")
axes.set_xticks(sorted(summary["size"].unique()))
axes.minorticks_off()
axes.xaxis.set_major_formatter("{x:.0f}")
axes.legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1, 0.93))
