"""Options that several commands share, and how their text is read."""

from typing import Annotated

import typer

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Draws = Annotated[
    int | None,
    typer.Option(help="Draws per image to score; 0: none.", show_default="200 or none"),
]
Bootstraps = Annotated[int, typer.Option(help="Resamples for intervals.")]
Permutations = Annotated[int, typer.Option(help="Shuffles for p-values.")]
ZScore = Annotated[bool, typer.Option(help="z-score voxels within sessions first.")]
Check = Annotated[
    bool, typer.Option(help="Test first whether images and betas belong together (seconds).")
]


def numbers(text: str) -> list[int] | None:
    """Whole numbers of "1-3,7"; None of nothing."""
    found: list[int] = []
    for part in filter(None, map(str.strip, text.split(","))):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal()):
            raise ValueError(f"{text!r} must be numbers or ranges such as 1-3,7")
        several = range(int(first), int(last) + 1)
        if not several:  # 3-1: nothing must not come to mean all
            raise ValueError(f"{part} in {text!r} ends before it begins")
        found += several
    return found or None
