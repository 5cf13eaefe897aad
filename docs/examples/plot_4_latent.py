"""
LatentEncoder beside ridge
==========================

`LatentEncoder`, this toolbox's own encoder, and ridge are fitted to a simulated subject. The
:doc:`page on LatentEncoder </latent>` describes it and has its scores on more data.
"""

import numpy as np
from matplotlib.figure import Figure

import brainenc
from brainenc.metrics import correlation

BLUE, GREY = "#0072B2", "#52606d"

# %%
# Both encoders get the tokens of a simulated vision transformer.

data = brainenc.datasets.simulate_subject(n_images=600, n_voxels=300, random_state=3)
tokens, betas = data.truth.tokens, data.betas
train, test = np.arange(480), np.arange(480, 600)
encoders = {
    "ridge": brainenc.RidgeEncoder(features=None),
    "LatentEncoder": brainenc.LatentEncoder(features=None, random_state=0),
}
responses = data.average_repeats().betas[test, 0]
r = {
    name: correlation(encoder.fit(tokens[train], betas[train]).predict(tokens[test]), responses)
    for name, encoder in encoders.items()
}
print({name: round(float(np.nanmean(values)), 3) for name, values in r.items()})

# %%
# Each mapper is stopped on the images it holds out. The weights of ridge, kernel and mappers are
# chosen on held-out images too.

latent = encoders["LatentEncoder"]
print("weights of ridge and of the latent, mean of voxels:", latent.mix_.mean(axis=1).round(2))
print("weights of kernel and mappers, first five latents:", latent.latent_mix_[:, :5].round(2))

training = Figure(figsize=(8.6, 3.5), layout="constrained")
curves, rois = training.subplots(1, 2, width_ratios=(1, 1.6))
for _, member in latent.history_.groupby("member"):
    curves.plot(member["step"], member["held_out_mse"], color=BLUE, lw=1, alpha=0.7)
curves.set(xlabel="step", ylabel="held-out MSE (z units)", title="mappers")

names = data.voxels["roi"].unique()
ceiling = data.noise_ceiling().to("r").values
position = np.arange(len(names))
for shift, (name, color) in enumerate({"ridge": GREY, "LatentEncoder": BLUE}.items()):
    heights = [np.nanmean(r[name][data.voxels["roi"] == roi]) for roi in names]
    rois.bar(position + 0.4 * shift - 0.2, heights, width=0.36, color=color, label=name)
for x, roi in enumerate(names):
    mean_ceiling = np.nanmean(ceiling[data.voxels["roi"] == roi])
    rois.hlines(mean_ceiling, x - 0.4, x + 0.4, color="black", lw=1.2)
rois.plot([], [], color="black", lw=1.2, label="noise ceiling")
rois.set(
    xticks=position, xticklabels=names, ylabel="mean r", title="held-out images", ylim=(0, 0.8)
)
_ = rois.legend(frameon=False, ncols=3, loc="upper left")
