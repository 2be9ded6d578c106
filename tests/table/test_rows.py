"""Row-local access: ids are renumbered without loss; row-local gradients equal whole-table ones."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metaheac_jax.backend import in_threads
from metaheac_jax.table.rows import RowIndex, select_rows


@given(
    hnp.arrays(
        np.int32, st.tuples(st.integers(0, 4), st.integers(1, 5)), elements=st.integers(0, 20)
    )
)
def test_renumbered_ids_point_at_the_same_rows(ids):
    index = RowIndex(20)
    for _ in range(2):  # scratch memory of the first use must not show in the second
        found = index.distinct(ids)
        np.testing.assert_array_equal(found, np.setdiff1d(ids, [20]))
        rows, local = index.renumber(found, 25, ids)
        assert rows.shape == (25,)
        np.testing.assert_array_equal(np.append(rows, 20)[local], ids)
        np.testing.assert_array_equal(local == 25, ids == 20)


def test_an_id_outside_the_table_leaves_no_trace():
    index = RowIndex(10)
    with pytest.raises(IndexError):
        index.distinct([7, 8], [11])
    np.testing.assert_array_equal(index.distinct([1]), [1])


def test_a_tree_of_ids_is_renumbered_leaf_by_leaf():
    index, ids = RowIndex(20), {"a": np.array([[3, 20]]), "b": (np.array([9, 3]), None)}
    rows, local = index.renumber(index.distinct(ids), 4, ids)
    np.testing.assert_array_equal(rows, [3, 9, 20, 20])
    np.testing.assert_array_equal(local["a"], [[0, 4]])
    np.testing.assert_array_equal(local["b"][0], [1, 0])
    assert local["b"][1] is None


def test_more_rows_than_room_is_refused():
    index = RowIndex(20)
    ids = np.arange(5)
    with pytest.raises(ValueError, match="5 distinct rows, more than 4"):
        index.renumber(index.distinct(ids), 4, ids)


def test_rows_are_selected_whatever_pads_them():
    table = np.arange(1.0, 7).reshape(3, 2)
    selected = select_rows({"network": "kept", "table": jax.numpy.asarray(table)}, np.array([2, 3]))
    assert selected["network"] == "kept"
    np.testing.assert_array_equal(selected["table"][:1], [[5, 6]])


def test_threads_share_an_index():
    """As many calls as there are threads are inside at a time, on rows of their own."""
    index, rng = RowIndex(2000), np.random.default_rng(0)
    each = [rng.integers(0, 2001, (50, 40)) for _ in range(200)]

    def both(ids):
        touched = index.distinct(ids)
        return touched, index.renumber(touched, 2000, ids)

    for ids, (touched, (rows, local)) in zip(
        each, in_threads(both, each, num_threads=4), strict=True
    ):
        np.testing.assert_array_equal(touched, np.setdiff1d(ids, 2000))
        np.testing.assert_array_equal(np.append(rows, 2000)[local], ids)
