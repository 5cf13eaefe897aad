"""Convert NSD to a ``.brain`` folder, session by session; a killed conversion can continue."""

from pathlib import Path

from brainenc.datasets import streaming
from brainenc.datasets.nsd.plan import Plan, coverage_line


def convert(plan: Plan, out: Path, *, copy_images: bool, verbose: bool) -> list[str]:
    """Write `out`, and return lines of a report."""
    lines, voxels = streaming.convert(plan, out, copy_images=copy_images, verbose=verbose)
    return [*lines, coverage_line(voxels["n_sessions"].to_numpy(), len(plan.sessions))]
