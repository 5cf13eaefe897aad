import os
import subprocess
import sys

import pytest

from brainenc.locks import exclusive

HOLDER = """
import sys, time
from brainenc.locks import exclusive
with exclusive(sys.argv[1], what="the folder", way_out="wait"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def hold(path):
    return exclusive(path, what="the folder", way_out="choose another")


def test_the_second_is_told_who_holds_it(tmp_path, holder):
    for _ in range(2):  # the first try does not remove what the holder wrote
        with (
            pytest.raises(
                BlockingIOError,
                match=rf"^the folder is in use by process {holder.pid} on .* since .*: choose",
            ),
            hold(tmp_path / ".lock"),
        ):
            pytest.fail("both hold it")


def test_a_killed_holder_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    with hold(tmp_path / ".lock"):
        assert f"process {os.getpid()}" in (tmp_path / ".lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_not_held_twice_in_one_process(tmp_path):
    with (
        hold(tmp_path / ".lock"),
        pytest.raises(BlockingIOError, match=f"process {os.getpid()}"),
        hold(tmp_path / ".lock"),
    ):
        pytest.fail("both hold it")


def test_the_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="in between"), hold(tmp_path / "new" / ".lock"):
        raise RuntimeError("in between")
    with hold(tmp_path / "new" / ".lock"):
        pass


def test_where_no_lock_can_be_made_the_work_goes_on(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with hold(tmp_path / "file" / ".lock"):
        pass  # writing there will say what is wrong
