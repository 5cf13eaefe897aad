import os

import pytest
import torch
import training_problem

from brainenc.training import Examples, TrainingError


def run(folder, resume=False, **options):
    options = {"checkpoint_every": 5, **options}
    return training_problem.run(checkpoint_dir=folder, resume=resume, **options)


def kept(folder):
    return sorted(path.name for path in folder.iterdir())


class Stopped(Exception):
    pass


def raising_at(step, error=Stopped):
    def loss(module, batch):
        if batch.step == step:
            raise error
        return training_problem.loss(module, batch)

    return loss


@pytest.fixture
def stopped_at_12(tmp_path):
    """Checkpoints of steps 5 and 10 of a training that broke off in step 12."""
    with pytest.raises(Stopped):
        run(tmp_path, loss=raising_at(12))
    assert kept(tmp_path) == ["step-000000005.pt", "step-000000010.pt"]
    return tmp_path


def assert_like_uninterrupted(ours):
    theirs = training_problem.run()
    for name, value in theirs["last"].items():
        assert torch.equal(ours["last"][name], value)
    assert str(ours["history"]) == str(theirs["history"])


def test_a_new_training_does_not_replace_an_old_one(stopped_at_12):
    with pytest.raises(FileExistsError, match=r"step-000000010\.pt .*resume=True"):
        run(stopped_at_12)
    assert_like_uninterrupted(run(stopped_at_12, resume=True))


def test_resuming_without_checkpoints_begins(tmp_path):
    assert_like_uninterrupted(run(tmp_path / "new", resume=True))


def test_resuming_a_finished_training_gives_its_result_without_a_step(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path, resume=True, loss=raising_at(0))
    assert all(torch.equal(value, again["kept"][name]) for name, value in first["kept"].items())
    assert str(again["history"]) == str(first["history"])
    assert again["stopped"] == first["stopped"] == "end"


class Code:
    def __reduce__(self):
        return os.mkdir, ("run-by-a-checkpoint",)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a checkpoint"),
    "foreign": lambda path: torch.save({"state_dict": {}}, path),
    "hostile": lambda path: torch.save({"state": Code()}, path),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over(stopped_at_12, damage, monkeypatch):
    monkeypatch.chdir(stopped_at_12)
    DAMAGE[damage](stopped_at_12 / "step-000000010.pt")
    with pytest.warns(RuntimeWarning, match=r"step-000000010\.pt .*resuming from .*05\.pt"):
        resumed = run(stopped_at_12, resume=True)
    assert_like_uninterrupted(resumed)
    assert "run-by-a-checkpoint" not in kept(stopped_at_12)


def test_only_damaged_checkpoints_are_an_error(stopped_at_12):
    for path in stopped_at_12.iterdir():
        DAMAGE["truncated"](path)
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be resumed: .*10\.pt.*05\.pt"):
        run(stopped_at_12, resume=True)


def fewer_voxels():
    parts = training_problem.problem()
    return Examples(tokens=parts["examples"]._fields["tokens"][0], betas=torch.zeros(40, 4).numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": {"learning_rate": 0.5}}, r"settings.learning_rate: 0.003 there, 0.5 here\)"),
        ({"settings": {"clip_norm": None}}, r"settings.clip_norm: 1.0 there, None here"),
        (
            {"examples": fewer_voxels()},
            r"data.betas: 'float32 \(40, 3, 5\)' there, 'float32 \(40, 4\)'",
        ),
        ({"module": torch.nn.Linear(6, 5)}, "network.module: 'Encoder' there, 'Linear' here"),
        ({"identity": {"kl_weight": 0.1}}, "identity.kl_weight: None there, 0.1 here"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused(stopped_at_12, options, message):
    with pytest.raises(ValueError, match=message):
        run(stopped_at_12, resume=True, **options)
    assert kept(stopped_at_12) == ["step-000000005.pt", "step-000000010.pt"]


def test_a_nan_names_the_last_good_checkpoint(tmp_path):
    def loss(module, batch):
        losses = training_problem.loss(module, batch)
        return losses | {"loss": losses["loss"] / (batch.step != 12)}

    with pytest.raises(TrainingError, match=r"step 13 of 44.*checkpoint is .*step-000000010\.pt"):
        run(tmp_path, loss=loss)


def test_checkpoint_arguments_need_a_folder():
    for options in ({"resume": True}, {"checkpoint_every": 3}):
        with pytest.raises(ValueError, match="need a checkpoint_dir"):
            training_problem.run(**options)
