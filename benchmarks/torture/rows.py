"""Rows on disk, a JSON line each, of the code that is there now."""

import contextlib
import json
from pathlib import Path
from typing import Any


class Rows:
    """Outcomes of a campaign, so that it goes on where it was stopped.

    Parameters
    ----------
    path : path
        Rows of other code stay in the file and are passed over.
    code : str
        Hash of the code.
    """

    def __init__(self, path: Path, code: str):
        self.path, self.code = path, code
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # a line that a kill cut off
                    row = json.loads(line)
                    if row["code"] == code:
                        self.rows.append(row)

    def add(self, **row: Any) -> None:
        row = {"code": self.code, **row}
        self.rows.append(row)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def find(self, **wanted: Any) -> list[dict[str, Any]]:
        """Rows with these values."""
        return [row for row in self.rows if wanted.items() <= row.items()]
