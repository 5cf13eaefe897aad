"""The two stages of SynBrain, for its page."""

import matplotlib.pyplot as plt
from nets import GIVEN, LATENT, TRAINED, draw_net

HEIGHTS = (2.2, 1.3)
schematic = plt.figure(figsize=(9.6, 3.8), layout="constrained")
top, bottom = schematic.subplots(2, height_ratios=HEIGHTS)
draw_net(
    top,
    "stage 1: BrainVAE, an autoencoder of single trials",
    HEIGHTS[0],
    {
        "trial": (0.8, 0.6, "single trial\n(voxels)", GIVEN),
        "encoder": (2.9, 0.6, "encoder\nconvolutions,\nattention", TRAINED),
        "z": (5.2, 0.6, "latent z\nmean + s.d. × noise\n256 × 1664", LATENT),
        "decoder": (7.5, 0.6, "decoder\nmirrored", TRAINED),
        "out": (9.6, 0.6, "the trial\nagain", GIVEN),
        "clip": (5.2, 1.85, "CLIP tokens of the image", GIVEN),
    },
    [
        ("trial", "encoder", ""),
        ("encoder", "z", ""),
        ("z", "decoder", ""),
        ("decoder", "out", ""),
        ("clip", "z", "SoftCLIP", "loss"),
    ],
)
draw_net(
    bottom,
    "stage 2 and prediction: S2N, a mapper from tokens to the latent",
    HEIGHTS[1],
    {
        "image": (0.8, 0.6, "image", GIVEN),
        "clip": (2.9, 0.6, "CLIP tokens\n256 × 1664", GIVEN),
        "mapper": (5.2, 0.6, "S2N\n8 transformer\nblocks", TRAINED),
        "z": (7.1, 0.6, "latent z", LATENT),
        "decoder": (8.4, 0.6, "decoder", GIVEN),
        "out": (9.8, 0.6, "response", GIVEN),
    },
    [
        ("image", "clip", ""),
        ("clip", "mapper", ""),
        ("mapper", "z", ""),
        ("z", "decoder", ""),
        ("decoder", "out", ""),
    ],
)
