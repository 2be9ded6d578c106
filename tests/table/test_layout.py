"""Where fields lie: the layout of a schema, and the network's inputs made from ids."""

import jax
import numpy as np
import pytest

from metaheac_jax.schema import Field, Schema, Vocabulary
from metaheac_jax.table.layout import SMALL, Ids, Layout
from metaheac_jax.table.pooling import UserFields

#: Two user fields, of 1 and of 2 slots, and two campaign fields, over a table of 6 rows.
LAYOUT = Layout(user_slots=(1, 2), small_fields=(), num_campaign_fields=2)
TABLE = np.array([[1.0, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12]])
PAD = len(TABLE)
inputs, dense = jax.jit(LAYOUT.inputs), jax.jit(UserFields.dense)
#: The second user has no value of the second field; the third has no value at all.
USERS = np.array([[0, 1, 2], [1, PAD, PAD], [PAD, PAD, PAD]])
#: Means by hand: (row 1 + row 2) / 2 = (4, 5).
VECTORS = np.array([[[1.0, 2], [4, 5]], [[3, 4], [0, 0]], [[0, 0], [0, 0]]])


def of(*sizes, slots=1):
    """The layout of user fields with so many values each, and of one campaign field."""
    schema = Schema(
        user=tuple(Field(f"user{f}", slots) for f in range(len(sizes))),
        campaign=(Field("campaign"),),
    )
    return Layout.of(schema, Vocabulary(tuple(np.arange(size) for size in (*sizes, 3))))


def test_a_schemas_layout_has_its_slots_and_fields():
    schema = Schema(
        user=(Field("gender"), Field("tokens", 4)), campaign=(Field("a"), Field("b"), Field("c"))
    )
    values = tuple(np.arange(size) for size in (2, 5000, 3, 4, 5))
    layout = Layout.of(schema, Vocabulary(values))
    assert layout == Layout(user_slots=(1, 4), small_fields=(2,), num_campaign_fields=3)
    assert (layout.num_user_fields, layout.num_slots) == (2, 5)


def test_small_fields_end_at_the_first_that_is_not_small():
    # The third is small, but its rows do not follow those of small fields alone.
    assert of(2, SMALL + 1, 3).small_fields == (2,)
    assert of(2, SMALL, 3).small_fields == (2, SMALL, 3)
    assert of(SMALL + 1, 2).small_fields == ()


def test_layouts_of_equal_fields_are_equal():
    """They are keys of compiled programs."""
    assert of(2, 7, slots=3) == of(2, 7, slots=3)
    assert hash(of(2, 7)) == hash(of(2, 7))
    assert of(2, 7) != of(2, 7, slots=3)


def test_inputs_are_field_vectors_of_users_and_campaigns():
    user, campaign = inputs(TABLE, Ids(USERS, np.array([5, PAD])))
    np.testing.assert_allclose(dense(user), VECTORS)
    np.testing.assert_array_equal(campaign, [[11, 12], [0, 0]])  # the pad id has no embedding
    assert isinstance(user, UserFields)


def test_campaign_fields_may_be_each_examples_own():
    campaign = np.array([[5, 4], [PAD, 3], [0, 0]])
    _, fields = inputs(TABLE, Ids(USERS, campaign))
    expected = [[[11, 12], [9, 10]], [[0, 0], [7, 8]], [[1, 2], [1, 2]]]
    np.testing.assert_array_equal(fields, expected)


@pytest.mark.parametrize("small", [(), (2,)])
def test_users_with_any_leading_axes_and_small_fields(small):
    """The first field has the rows 0 and 1; as a small field its vector is left as a product."""
    layout = Layout(user_slots=(1, 2), small_fields=small, num_campaign_fields=0)
    table = np.hstack([TABLE, -TABLE])  # wider than the small field has values
    ids = np.array([[0, 2, 4], [1, PAD, PAD]])
    user = jax.jit(layout.users)(table, ids[None, :, None])
    assert user.num_values == ((2, 0) if small else (0, 0))
    # The mean of rows 2 and 4 is (7, 8).
    expected = np.array([[[1, 2, -1, -2], [7, 8, -7, -8]], [[3, 4, -3, -4], [0] * 4]])
    np.testing.assert_allclose(dense(user), expected[None, :, None])


def test_a_row_index_keeps_the_numbers_of_small_fields_rows():
    index = Layout(user_slots=(1, 1), small_fields=(2, 1), num_campaign_fields=1).row_index(9)
    ids = np.array([[1, 7], [9, 5]])
    found = index.distinct(ids)
    np.testing.assert_array_equal(found, [0, 1, 2, 5, 7])  # rows 0 to 2 whether touched or not
    rows, local = index.renumber(found, 6, ids)
    np.testing.assert_array_equal(rows, [0, 1, 2, 5, 7, 9])
    np.testing.assert_array_equal(local, [[1, 4], [6, 3]])
