"""Checkpoints of a training: written atomically, read without running code, checked on resuming."""

import json
import os
import re
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from brainenc.locks import exclusive
from brainenc.reading import check_archive
from brainenc.storage import atomic_path

FORMAT = "brainenc training checkpoint 1"
KEPT = 2


class Checkpoints:
    """The checkpoints of one training in a folder; the last two are kept.

    Parameters
    ----------
    folder : path
    identity : dict of JSON-like values
        Settings, data and parameters that a checkpoint must match to be resumed.

    Raises
    ------
    PermissionError, NotADirectoryError : the folder cannot be created or written to.
    """

    def __init__(self, folder: str | os.PathLike, identity: dict[str, Any]):
        self.folder = Path(folder)
        self.identity = json.loads(json.dumps(identity))  # tuples become lists, as in a file
        #: The checkpoint that `read` has read.
        self.resumed_from = self.folder

    def held(self) -> AbstractContextManager[None]:
        """Context in which no other process trains in the folder.

        Raises
        ------
        BlockingIOError : another one does; the message says which.
        """
        return exclusive(
            self.folder / ".lock",
            what=f"checkpoint_dir={str(self.folder)!r}",
            way_out="wait until that training has ended, or choose another checkpoint_dir",
        )

    def paths(self) -> list[Path]:
        """Checkpoints present, oldest first."""
        return sorted(
            path for path in self.folder.glob("step-*.pt") if re.fullmatch(r"step-\d+", path.stem)
        )

    def newest(self) -> Path | None:
        """Path of the last checkpoint, or None."""
        return self.paths()[-1] if self.paths() else None

    def refuse_any(self) -> None:
        """Raise FileExistsError if there is a checkpoint that a new training would replace."""
        if (path := self.newest()) is not None:
            raise FileExistsError(
                f"{path} is the checkpoint of an earlier training: continue it with resume=True, "
                "choose another checkpoint_dir, or delete the folder"
            )

    def write(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after `step` steps, then delete all but the last two checkpoints."""
        path = self.folder / f"step-{step:09d}.pt"
        with atomic_path(path) as temporary:
            torch.save({"format": FORMAT, "identity": self.identity, "state": state}, temporary)
        for old in self.paths()[:-KEPT]:
            old.unlink(missing_ok=True)
        return path

    def read(self) -> dict[str, Any] | None:
        """State of the newest readable checkpoint; None if there is no checkpoint.

        Unreadable ones are skipped with a RuntimeWarning.

        Raises
        ------
        ValueError : none of those present is readable, or it is of another training.
        """
        unreadable = []
        for path in reversed(self.paths()):
            try:
                content = _load(path)
            except ValueError as error:
                unreadable.append(str(error))
                continue
            self._compare(path, content["identity"])
            if unreadable:
                warnings.warn(
                    f"{'; '.join(unreadable)}; resuming from {path}", RuntimeWarning, stacklevel=4
                )
            self.resumed_from = path
            return content["state"]
        if unreadable:
            raise ValueError(
                f"no checkpoint in {self.folder} can be resumed: {'; '.join(unreadable)}. "
                "Delete the folder to start again."
            )
        return None

    def _compare(self, path: Path, theirs: dict[str, Any]) -> None:
        ours, theirs = _flat(self.identity), _flat(theirs)
        differences = [
            f"{name}: {theirs.get(name)!r} there, {ours.get(name)!r} here"
            for name in sorted({*ours, *theirs})
            if ours.get(name) != theirs.get(name)
        ]
        if differences:
            raise ValueError(
                f"{path} is a checkpoint of another training ({'; '.join(differences)}): train "
                "with the same settings, data and network, or use another checkpoint_dir"
            )


def _load(path: Path) -> dict[str, Any]:
    try:
        check_archive(path)  # torch does not compare the checksums
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # truncated, not from torch, or with code: the error differs
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read as a checkpoint ({reason})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of a brainenc training")
    if not all(isinstance(content.get(name), dict) for name in ("identity", "state")):
        raise ValueError(f"{path} is damaged: it lacks the identity or the state of the training")
    return content


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        nested = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        flat |= nested if nested is not None else {f"{prefix}{name}": value}
    return flat
