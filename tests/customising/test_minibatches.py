"""Minibatches of a campaign: what they hold, and which rows of the table they touch."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from metaheac_jax.customising.customiser import minibatches
from metaheac_jax.customising.sizes import GrowingSize, usual_size
from metaheac_jax.data.batches import Batch
from metaheac_jax.table.layout import Ids

PAD = 99


def examples(first, count):
    """User i of a campaign is the rows ``first + i`` and PAD."""
    user = np.stack([first + np.arange(count), np.full(count, PAD)], axis=1)
    label = (np.arange(count) % 2).astype(np.float32)
    return Batch(Ids(user, np.array([first, first + 1])), label, np.ones(count))


def test_picked_examples_are_divided_and_the_last_are_padded():
    first, second = minibatches(examples(10, 5), np.array([3, 0, 1]), 2, PAD)
    np.testing.assert_array_equal(first.ids.user, [[13, PAD], [10, PAD]])
    np.testing.assert_array_equal(second.ids.user, [[11, PAD], [PAD, PAD]])
    for batch in (first, second):
        np.testing.assert_array_equal(batch.ids.campaign, [10, 11])
    np.testing.assert_array_equal([first.label, second.label], [[1, 0], [1, 0]])
    np.testing.assert_array_equal([first.weight, second.weight], [[1, 1], [1, 0]])


def test_no_examples_make_no_minibatch():
    assert not list(minibatches(examples(10, 5), np.empty(0, int), 2, PAD))


def test_a_usual_size_is_the_next_power_of_two():
    assert [usual_size(count) for count in (5000, 8192, 8193)] == [8192, 8192, 16384]


class Slow(int):
    """Whose comparison lets another thread run before its outcome is acted on."""

    def __gt__(self, other):
        outcome = int(self) > other
        time.sleep(0.05)
        return outcome


def test_two_campaigns_that_begin_make_room_once():
    """Whoever comes first: 1900 rows fit the room made for 2040, and these fit that for 1900."""
    size = GrowingSize(1024)
    with ThreadPoolExecutor(2) as threads:
        assert len(set(threads.map(size.holding, (Slow(2040), Slow(1900))))) == 1
