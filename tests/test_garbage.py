"""When the garbage collector waits, and that users' settings of it stay."""

import gc
import weakref

import pytest

from brainenc.garbage import collected_at_end, collections_paused, old_objects_set_aside


@pytest.fixture(autouse=True)
def collector():
    """The collector as it was, whatever a test does to it."""
    was_enabled = gc.isenabled()
    yield
    gc.unfreeze()
    gc.enable() if was_enabled else gc.disable()


def a_cycle():
    class Node:
        pass

    node = Node()
    node.itself = node
    return weakref.ref(node)


def test_the_collector_waits_in_the_block_and_goes_on_after_it_and_after_an_error():
    with collections_paused():
        assert not gc.isenabled()
        with collections_paused():
            pass
        assert not gc.isenabled()  # until the outer block ends
    assert gc.isenabled()
    with pytest.raises(KeyError), collections_paused():
        raise KeyError
    assert gc.isenabled()


def test_garbage_of_both_blocks_is_found_later():
    for block in (collections_paused, old_objects_set_aside):
        with block():
            made = a_cycle()
        gc.collect()
        assert made() is None


def test_garbage_made_while_old_objects_are_set_aside_is_found_there():
    old = a_cycle()
    with old_objects_set_aside():
        new = a_cycle()
        gc.collect()
        assert new() is None
        assert old() is not None
    gc.collect()
    assert old() is None


@pytest.mark.parametrize("block", [collections_paused, old_objects_set_aside])
def test_what_the_user_froze_or_switched_off_stays_so(block):
    gc.freeze()
    frozen = gc.get_freeze_count()
    younger = [[] for _ in range(1000)]
    with block():
        pass
    # Frozen objects may die meanwhile: the count falls by some, but neither to none (the block
    # unfroze them) nor above what it was (the block froze the younger ones too).
    assert frozen - len(younger) < gc.get_freeze_count() <= frozen
    gc.unfreeze()
    gc.disable()
    with block():
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_what_a_block_made_is_collected_at_its_end_and_not_within():
    with collected_at_end():
        assert not gc.isenabled()
        made = a_cycle()
        some = [[] for _ in range(10**5)]  # enough to start a collection
        assert made() is not None
    assert made() is None
    assert len(some) == 10**5
    assert gc.isenabled()
    with pytest.raises(KeyError), collected_at_end():
        raise KeyError
    assert gc.isenabled()
    gc.disable()
    with collected_at_end():
        made = a_cycle()
    assert not gc.isenabled()
    assert made() is not None
