"""Minibatches of several campaigns: what they hold, and which rows of the table they touch."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from metaheac_jax.customising.minibatches import (
    GrowingSize,
    localise,
    stack_minibatches,
    usual_size,
)
from metaheac_jax.data.batches import Batch
from metaheac_jax.table.layout import Ids
from metaheac_jax.table.rows import RowIndex

PAD = 99


def examples(first, count, reference=None):
    """User i of a campaign is the rows ``first + i`` and PAD."""
    user = np.stack([first + np.arange(count), np.full(count, PAD)], axis=1)
    label = (np.arange(count) % 2).astype(np.float32)
    return Batch(Ids(user, np.array([first, first + 1]), reference), label, np.ones(count))


def test_picked_examples_are_stacked_and_padded():
    """Two campaigns, the second of them done, and an idle place."""
    batch = stack_minibatches(
        [examples(10, 5), examples(20, 5)], [np.array([3, 0]), np.empty(0, int)], 3, 1, PAD
    )
    np.testing.assert_array_equal(batch.ids.user[0], [[13, PAD], [10, PAD], [PAD, PAD]])
    np.testing.assert_array_equal(batch.ids.user[1:], PAD)
    np.testing.assert_array_equal(batch.ids.campaign, [[10, 11], [PAD, PAD], [PAD, PAD]])
    np.testing.assert_array_equal(batch.label, [[1, 0, 0], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(batch.weight, [[1, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert batch.ids.reference is None


def test_a_campaigns_reference_set_goes_with_each_of_its_minibatches():
    sets = np.arange(2 * 2 * 3 * 2).reshape(2, 2, 3, 2)
    members = [examples(10, 4, sets[0]), examples(20, 4, sets[1])]
    batch = stack_minibatches(members, [np.array([0]), np.array([1])], 2, 0, PAD)
    np.testing.assert_array_equal(batch.ids.reference, sets)


def test_each_campaigns_ids_point_into_its_own_rows():
    members = [examples(10, 5), examples(20, 5)]
    batch = stack_minibatches(members, [np.array([3, 0]), np.arange(5)], 5, 0, PAD)
    rows, local = localise(RowIndex(PAD), batch, GrowingSize(8))
    np.testing.assert_array_equal(rows[0], [10, 11, 13, *[PAD] * 5])
    np.testing.assert_array_equal(rows[1], [20, 21, 22, 23, 24, *[PAD] * 3])
    for place in range(2):
        whole = np.append(rows[place], PAD)
        np.testing.assert_array_equal(whole[local.ids.user[place]], batch.ids.user[place])
        np.testing.assert_array_equal(whole[local.ids.campaign[place]], batch.ids.campaign[place])


def test_few_sizes_of_a_minibatchs_table():
    """Each compiles a step: a smaller need takes what is there, a larger one makes room anew."""
    index, size, sizes = RowIndex(9000), GrowingSize(1024), []
    for touched in (1900, 300, 2040, 4000, 20):
        user = np.resize(np.arange(touched), (1, 512, 8)).astype(np.int32)
        ids = Ids(user, np.full((1, 2), 8999, np.int32))
        rows, local = localise(index, Batch(ids, *np.ones((2, 1, 512))), size)
        sizes.append(rows.shape[1])
        np.testing.assert_array_equal(rows[0][local.ids.user[0]], user[0])
        np.testing.assert_array_equal(rows[0][local.ids.campaign[0]], 8999)
    assert sizes == [2048, 2048, 2048, 5120, 5120]


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


def test_a_usual_size_is_a_power_of_two_that_holds_the_rows():
    assert [usual_size(count) for count in (0, 1, 4096, 4097, 8192, 8193)] == [
        *(4096, 4096, 4096),
        *(8192, 8192, 16384),
    ]
