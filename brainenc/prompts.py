"""Prompts and templates of zero-shot classification, for anything that embeds text."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

#: A text with one "{}" where the prompt goes, or a function from prompt to text.
Template = str | Callable[[str], str]


def check_prompts(prompts: Any) -> list[str]:
    """Prompts as a list of texts.

    Raises
    ------
    TypeError : one text, which would be taken letter by letter, or items that are no text.
    ValueError : there are none, or one is empty.

    Examples
    --------
    >>> check_prompts(("a face", "a street"))
    ['a face', 'a street']
    """
    if isinstance(prompts, str):
        raise TypeError(f"prompts={prompts!r} is one text: give a list, [{prompts!r}]")
    found = list(prompts)
    if wrong := [prompt for prompt in found if not isinstance(prompt, str)]:
        raise TypeError(f"prompts must be texts, and {wrong[0]!r} is a {type(wrong[0]).__name__}")
    if not found or any(not prompt.strip() for prompt in found):
        raise ValueError("prompts must hold at least one text, and no empty one")
    return [str(prompt) for prompt in found]


def in_templates(prompts: Sequence[str], templates: Sequence[Template] | None) -> list[list[str]]:
    """The texts of each prompt, one per template; the prompt itself without templates.

    Raises
    ------
    TypeError : one text in place of a list of templates, or a template that is none.
    ValueError : no templates, or one without exactly one "{}".

    Examples
    --------
    >>> in_templates(["face"], ["a photo of a {}.", "a drawing of a {}."])
    [['a photo of a face.', 'a drawing of a face.']]
    """
    if templates is None:
        return [[prompt] for prompt in prompts]
    if isinstance(templates, str):
        raise TypeError(f"templates={templates!r} is one text: give a list, [{templates!r}]")
    fills = [_filler(template) for template in templates]
    if not fills:
        raise ValueError("templates is empty: give at least one, or None")
    return [[fill(prompt) for fill in fills] for prompt in prompts]


def _filler(template: Any) -> Callable[[str], str]:
    if callable(template):
        return template
    if not isinstance(template, str):
        raise TypeError(
            f"templates has a {type(template).__name__}, {template!r}: give texts with one {{}}, "
            "or functions from prompt to text"
        )
    if template.count("{}") != 1:
        raise ValueError(f"template {template!r} must have one {{}}, where the prompt goes")
    return lambda prompt: template.replace("{}", prompt)


def mean_direction(embeddings: np.ndarray) -> np.ndarray:
    """Unit-norm mean over templates of unit-norm embeddings, as zero-shot classifiers take it.

    Parameters
    ----------
    embeddings : array, shape (n_prompts, n_templates, n_features)

    Returns
    -------
    array of float32, shape (n_prompts, n_features)
    """
    return unit_norm(unit_norm(embeddings).mean(axis=1)).astype(np.float32)


def unit_norm(embeddings: np.ndarray) -> np.ndarray:
    """Rows of length 1 along the last axis; a row of zeros stays one."""
    embeddings = np.asarray(embeddings, np.float64)
    norm = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    return embeddings / np.where(norm > 0, norm, 1)
