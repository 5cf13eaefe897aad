"""Steps of a run after the fits: one that fails costs its own tables, and not the others."""

import traceback
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pandas as pd

Made = TypeVar("Made")


class Steps:
    """Runs steps and keeps the errors of those that fail.

    Attributes
    ----------
    errors : dict of step to error
        In order.
    encoders : dict of encoder to error
        Of encoders that could not be scored.
    tracebacks : dict of step to traceback
    """

    def __init__(self) -> None:
        self.errors: dict[str, str] = {}
        self.encoders: dict[str, str] = {}
        self.tracebacks: dict[str, str] = {}

    def attempt(self, step: str, make: Callable[[], Any], otherwise: Any) -> Any:
        """What `make` returns, or `otherwise` if it fails."""
        try:
            return make()
        except Exception as error:
            self._keep(step, error)
            return otherwise

    def score(self, encoder: str, make: Callable[[], Made]) -> Made | None:
        """Scores of one encoder, or None; the error goes to its row of the table."""
        try:
            return make()
        except Exception as error:
            self.encoders[encoder] = f"not scored: {_sentence(error)}"
            self.tracebacks[f"scores of {encoder}"] = traceback.format_exc()
            return None

    def table(
        self,
        step: str,
        make: Callable[[Mapping[str, Any]], pd.DataFrame],
        scores: Mapping[str, Any],
        empty: pd.DataFrame,
    ) -> pd.DataFrame:
        """Table of the scores of all encoders, without those for which it cannot be made."""
        try:
            return make(scores)
        except Exception as error:
            found = error
        possible = {}
        for name, of_encoder in scores.items():
            try:
                make({name: of_encoder})
            except Exception as error:
                self._keep(f"{name} in {step}", error)
                self.encoders.setdefault(name, f"not in {step}: {_sentence(error)}")
            else:
                possible[name] = of_encoder
        if len(possible) == len(scores):  # together they fail
            self._keep(step, found)
            return empty
        return self.attempt(step, lambda: make(possible), empty)

    def warnings(self) -> list[str]:
        """One sentence per step that failed."""
        return [
            f"Not made because of an error: {step} ({why})." for step, why in self.errors.items()
        ]

    def _keep(self, step: str, error: Exception) -> None:
        self.errors[step] = _sentence(error)
        self.tracebacks[step] = "".join(traceback.format_exception(error))


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
