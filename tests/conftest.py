import os
from pathlib import Path

import pytest

# Two test workers on two cores: threads of their own would only fight.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def real_data():
    """Path of a file of real data, or a skip that says where it was looked for."""
    folder = Path(os.environ.get("BRAINENC_TEST_DATA", REPOSITORY.parent / "shared" / "data"))

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"{name} is not in {folder}; set BRAINENC_TEST_DATA to the folder it is in")
        return path

    return find


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
