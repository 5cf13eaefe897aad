"""The campaigns see the faults that they look for, and give the same inputs for the same seeds."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from torture import injection
from torture.mutate import STRUCTURED, mutated
from torture.mutate_bytes import BYTES, CANARY

EXPECTED = {
    "clear": "clear",
    "names_nothing": "ugly",
    "of_another_kind": "ugly",
    "takes_anything": "accepted",
    "warns": "warned",
    "reads_and_forgives": "right",
    "allocates": "memory",
    "fills": "memory",
    "hides_a_memory_error": "memory",
    "sleeps": "hang",
    "ignores_the_alarm": "hang",
    "crashes": "crash",
    "runs_a_command": "code run",
    "unpickles": "code run",
    "writes_elsewhere": "code run",
    "writes_here": "right",
}


@pytest.mark.slow
def test_every_planted_fault_is_seen(tmp_path):
    script = Path(__file__).with_name("planted_faults.py")
    path = os.pathsep.join([str(REPOSITORY / "benchmarks"), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {name: {outcome: 1} for name, outcome in EXPECTED.items()}


def samples(tmp_path):
    array = np.arange(60.0).reshape(5, 12)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", images=array, betas=array)
    content = {name: (tmp_path / name).read_bytes() for name in ("a.npy", "a.npz")}
    content["a.json"] = json.dumps({"a": [1, 2.5, {"b": None}], "c": "text"}).encode()
    content["a.csv"] = b"voxel,roi,ncsnr\n0,V1,0.5\n1,V2,\n"
    return content


def test_a_seed_gives_an_input_and_another_seed_another(tmp_path):
    for name, content in samples(tmp_path).items():
        inputs = [mutated(np.random.default_rng(seed), content, name) for seed in range(60)]
        again = [mutated(np.random.default_rng(seed), content, name) for seed in range(60)]
        assert inputs == again
        assert content not in [changed for changed, _ in inputs]
        assert len({changed for changed, _ in inputs}) > 45
        named = {mutator.__name__ for mutator in STRUCTURED[name[1:]]}
        assert named & {mutator for _, mutator in inputs}


@pytest.mark.parametrize("mutator", sorted({m.__name__: m for m in BYTES}.items()))
def test_mutators_of_bytes_work_on_the_shortest_files(mutator):
    for content in (b"a", b"ab", b"abcdefgh"):
        for seed in range(30):
            assert isinstance(mutator[1](np.random.default_rng(seed), content, "a"), bytes)


def test_a_changed_member_leaves_a_valid_archive(tmp_path):
    content = samples(tmp_path)["a.npz"]
    for seed in range(20):
        (mutator,) = set(STRUCTURED[".npz"])
        path = tmp_path / "changed.npz"
        path.write_bytes(mutator(np.random.default_rng(seed), content, "a.npz"))
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None


@pytest.mark.parametrize(
    "markup",
    [
        "<script>x</script>",
        "<img src=x onerror=y>",
        '<a href="javascript:x">x</a>',
        '<iframe srcdoc="&lt;script&gt;x&lt;/script&gt;"></iframe>',
        "<p onclick=x>",
        "<base href=//x>",
        "<svg onload=x />",
    ],
)
def test_active_elements_are_found(markup):
    page = "<html><title>x</title><p>{}</p></html>"
    clean = injection.Elements(page.format("&lt;script&gt;<b class=x>bold</b>")).found
    assert not clean - injection.Elements(page.format("plain")).found
    assert injection.Elements(page.format(markup)).found - clean


def test_cells_like_formulas_are_counted(tmp_path):
    (tmp_path / "a.csv").write_text('name,r\n=1+1,-0.5\n"a,b",+3\n@x,-1e-3\nok,-inf\n')
    assert injection.formulas(tmp_path / "a.csv") == 2


def test_payloads_say_who_ran_them():
    assert sum(CANARY in name or "tc=1" in name for name in injection.PAYLOADS) > 30
