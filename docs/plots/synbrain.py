"""The nets of SynBrain, for its page: what is trained is blue, latents are green."""

import matplotlib.pyplot as plt
import numpy as np

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#52606d"
TRAINED = {"facecolor": "#e3eef7", "edgecolor": BLUE}
GIVEN = {"facecolor": "white", "edgecolor": "#c3cad2"}
LATENT = {"facecolor": "#e2f3ee", "edgecolor": GREEN}


def draw_net(axes, title, height, boxes, arrows):
    """Boxes (x, y, text, style) by name, and arrows between them: trained, given, latent."""
    axes.set(xlim=(0, 10.4), ylim=(0, height))
    axes.axis("off")
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    drawn = {
        name: axes.text(
            *(x, y, text),
            ha="center",
            va="center",
            fontsize=8.5,
            linespacing=1.3,
            bbox={"boxstyle": "round,pad=0.45", "lw": 1.1, **style},
        )
        for name, (x, y, text, style) in boxes.items()
    }
    for start, end, label, *style in arrows:
        dashed = {"ls": "--", "arrowstyle": "<->"} if style else {"arrowstyle": "-|>"}
        axes.annotate(
            "",
            xy=boxes[end][:2],
            xytext=boxes[start][:2],
            arrowprops={
                "color": ORANGE if style else GREY,
                "lw": 1.1,
                "patchA": drawn[start].get_bbox_patch(),
                "patchB": drawn[end].get_bbox_patch(),
                "shrinkA": 1,
                "shrinkB": 1,
                **dashed,
            },
        )
        x, y = np.mean([boxes[start][:2], boxes[end][:2]], axis=0)
        axes.text(x + 0.08, y, label, fontsize=8, color=ORANGE, va="center")


HEIGHTS = (2.2, 1.3, 2.6)
schematic = plt.figure(figsize=(9.6, 6.4), layout="constrained")
top, middle, bottom = schematic.subplots(3, height_ratios=HEIGHTS)
draw_net(
    top,
    "paper, stage 1: BrainVAE, an autoencoder of single trials",
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
    middle,
    "paper, stage 2 and prediction: S2N, a mapper from tokens to the latent",
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
draw_net(
    bottom,
    "default: two kinds of maps to a latent in which noise is alike in all directions, and ridge",
    HEIGHTS[2],
    {
        "tokens": (0.8, 1.25, "tokens or\npooled features", GIVEN),
        "ridge": (5.0, 2.0, "ridge", TRAINED),
        "mapper": (2.95, 0.55, "Gaussian kernel,\n5 small\ntransformers", TRAINED),
        "z": (5.0, 0.55, "128 latents", LATENT),
        "read": (7.0, 0.55, "read-out:\ncomponents,\nnoise put back", GIVEN),
        "blend": (7.9, 2.0, "blend\nchosen on\nheld-out images", TRAINED),
        "out": (9.75, 2.0, "expected\nresponse", GIVEN),
        "draws": (9.4, 0.55, "draws: + shared noise,\nits variance\nfrom the tokens", GIVEN),
    },
    [
        ("tokens", "ridge", ""),
        ("tokens", "mapper", ""),
        ("mapper", "z", ""),
        ("z", "read", ""),
        ("ridge", "blend", ""),
        ("read", "blend", ""),
        ("blend", "out", ""),
        ("out", "draws", ""),
    ],
)
