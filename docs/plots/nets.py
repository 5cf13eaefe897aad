"""Diagrams of networks: what is trained is blue, latents are green."""

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
