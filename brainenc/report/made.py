"""Render made images as one self-contained HTML page."""

from functools import partial
from typing import Any

import numpy as np
from markupsafe import Markup

from brainenc.garbage import collected_at_end
from brainenc.report import style, text
from brainenc.report.made_figures import made_pictures, made_values
from brainenc.report.pages import render_page
from brainenc.report.parts import Picture, picture
from brainenc.report.surface import figure_to_img

#: Headings of scores.
_HEADINGS = {
    "start": "encoder, at the start",
    "objective": "encoder",
    "judge": "judge",
    "contrast": "contrast",
}


def render_made_images(made: Any, natural: np.ndarray | None = None) -> str:
    """Report of `brainenc.synthesis.MadeImages`.

    Parameters
    ----------
    made : MadeImages
    natural : array, shape (n_natural, H, W, 3), uint8, optional
        The natural images, of which the best are shown.

    Returns
    -------
    str
        HTML with inline style and figures, without external resources.
    """
    scores, others = made.scores, made.natural
    pair = None if natural is None else (natural, others)
    alt = "Made images, and the best natural ones"
    with style.styled(), collected_at_end():
        pictures: Markup = figure_to_img(made_pictures(made.images, scores, pair), alt)
    has_judge = "judge" in scores
    columns = [name for name in _HEADINGS if name in scores]
    context = {
        "n": len(made.images),
        "n_natural": None if others is None else len(others),
        "n_steps": len(made.history),
        "has_judge": has_judge,
        "n_above": {
            name: int((scores[name] > others[name].max()).sum())
            for name in ("objective", "judge")
            if others is not None and name in scores
        },
        "summary": made.summary(),
        "headings": [_HEADINGS[name] for name in columns],
        "summary_headings": [_HEADINGS[name] for name in made.summary()],
        "rows": scores[columns].to_numpy(float).tolist(),
        "pictures": Picture("pictures", pictures, alt),
        "values": picture(
            partial(made_values, scores, others), "values", "Values of the judge and of the encoder"
        ),
        "text": text,
    }
    return render_page("made.html.j2", context)
