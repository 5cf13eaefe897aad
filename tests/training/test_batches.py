import numpy as np
import pytest
import torch

from brainenc.training import Batch, Examples
from brainenc.training.batches import Order, prefetched


class Guarded(np.memmap):
    """A memory map that fails a test when much of it is read at once."""

    def __getitem__(self, index):
        values = super().__getitem__(index)
        assert np.size(values) <= np.size(self) // 10, "a tenth of the array was asked for at once"
        return values

    def __array__(self, *args, **kwargs):
        raise AssertionError("the whole array was asked for")


@pytest.fixture
def betas(tmp_path):
    np.save(tmp_path / "betas.npy", np.arange(120 * 12, dtype=np.float64).reshape(120, 3, 4))
    return np.load(tmp_path / "betas.npy", mmap_mode="r").view(Guarded)


def test_examples_are_the_indexed_rows_and_the_map_is_not_read_whole(betas):
    rng = np.random.default_rng(0)
    image, repeat = rng.integers(120, size=70), rng.integers(3, size=70)
    tokens = rng.standard_normal((120, 2, 3)).astype(np.float32)
    examples = Examples(tokens=(tokens, image), betas=(betas, image, repeat))
    batch = examples[np.array([5, 69, 0])]
    assert len(examples) == 70
    for position, example in enumerate([5, 69, 0]):
        number = image[example] * 12 + repeat[example] * 4
        assert batch["betas"][position].tolist() == [number, number + 1, number + 2, number + 3]
        assert np.array_equal(batch["tokens"][position], tokens[image[example]])
    assert {values.dtype for values in batch.values()} == {np.dtype(np.float32)}
    assert type(batch["betas"]) is np.ndarray
    batch["betas"][:] = -1  # a copy: the map is read-only, and torch wants memory it can write to
    examples.description()


def test_a_bare_array_counts_by_rows():
    x = np.arange(12).reshape(6, 2)
    assert np.array_equal(Examples(x=x)[np.array([4, 1])]["x"], x[[4, 1]])


def test_the_description_tells_data_apart():
    x = np.arange(40.0).reshape(20, 2)
    image = np.arange(20)
    one = Examples(x=(x, image)).description()
    assert one == Examples(x=(x.copy(), image.copy())).description()
    others = [(x + 1, image), (x, image[::-1]), (x[:19], image[:19]), (x.astype("f4"), image)]
    for other in others:
        assert one != Examples(x=other).description()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "one field"),
        ({"x": (np.zeros((4, 2)), [0, 4])}, "index 0 of x has positions from 0 to 4"),
        ({"x": (np.zeros((4, 2)), [0, 1], [0])}, "index 0 of x has 2, index 1 of x has 1"),
        ({"x": np.zeros((4, 2)), "y": np.zeros(3)}, "x has 4, y has 3"),
        ({"x": (np.zeros(4), [0], [0])}, "too few axes"),
    ],
)
def test_examples_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Examples(**fields)


def test_every_epoch_is_a_new_permutation_in_full_batches():
    order = Order(23, 5, random_state=0, rank=0, world_size=1)
    assert order.steps_per_epoch == 4  # three of 23 are left over, others each time
    epochs = [np.concatenate([order.rows(4 * epoch + i) for i in range(4)]) for epoch in range(40)]
    for epoch in epochs:
        assert len(set(epoch)) == 20
    assert len({tuple(epoch) for epoch in epochs}) == 40
    # Left out 40 · 3 / 23 = 5.2 ± 2.1 times each: none is left out every time.
    assert np.bincount(np.concatenate(epochs), minlength=23).min() > 40 - 5.2 - 5 * 2.1
    assert order.epoch(7) == 1


def test_steps_can_be_asked_for_in_any_order():
    forwards = Order(23, 5, 1, 0, 1)
    backwards = Order(23, 5, 1, 0, 1)
    expected = [forwards.rows(step).tolist() for step in range(12)]
    assert [backwards.rows(step).tolist() for step in reversed(range(12))][::-1] == expected
    assert [Order(23, 5, 2, 0, 1).rows(step).tolist() for step in range(12)] != expected


def test_processes_share_the_batch_of_one():
    whole = Order(23, 6, 0, 0, 1)
    parts = [Order(23, 6, 0, rank, 3) for rank in range(3)]
    for step in range(9):
        shared = np.concatenate([part.rows(step) for part in parts])
        assert np.array_equal(shared, whole.rows(step))
    with pytest.raises(ValueError, match="batch of 5 examples cannot be shared equally by 3"):
        Order(5, 6, 0, 0, 3)


@pytest.mark.parametrize("kind", ["normal", "uniform", "integers"])
def test_noise_does_not_depend_on_the_number_of_processes(kind):
    def draws(rank, world_size):
        batch = Batch(
            {"x": torch.zeros(12 // world_size, 2)},
            generator=torch.Generator().manual_seed(7),
            rank=rank,
            world_size=world_size,
        )
        shape = (1000, 3, 5) if kind == "integers" else (3, 5)
        return [getattr(batch, kind)(*shape) for _ in range(2)]

    whole = draws(0, 1)
    for call in range(2):
        shared = torch.cat([draws(rank, 4)[call] for rank in range(4)])
        assert torch.equal(shared, whole[call])
        assert shared.shape == (12, 3, 5)
    assert not torch.equal(*whole)


def test_prefetched_is_map_with_its_errors():
    assert list(prefetched(lambda key: key**2, range(5))) == [0, 1, 4, 9, 16]
    assert list(prefetched(str, [])) == []
    values = prefetched(lambda key: 1 / key, [2, 1, 0, 4])
    assert [next(values), next(values)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(values)
