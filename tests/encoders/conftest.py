import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def synbrain_reference():
    """Folder with outputs of the official code, or a skip that says where it was looked for."""
    data = os.environ.get("BRAINENC_TEST_DATA")
    shared = Path(data).resolve().parent if data else REPOSITORY.parent / "shared"
    folder = shared / "reference" / "synbrain"
    if not (folder / "expected.npz").exists():
        pytest.skip(
            f"the official code's outputs are not in {folder}; set BRAINENC_TEST_DATA to the "
            "folder of test data beside reference/"
        )
    return folder
