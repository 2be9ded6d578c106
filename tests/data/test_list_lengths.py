"""Lengths of lists as fields: right for every user, and nothing else moves."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from toy import SIZES, dataset

from metaheac_jax.data.list_lengths import Lengths, length_classes
from metaheac_jax.schema import Field, Schema, Vocabulary

DATA = dataset(users=80, campaigns=4, per_campaign=30, pool=30)


def test_classes_cover_every_length():
    for slots in range(1, 200):
        classes = length_classes(slots)
        assert classes[0] == 1
        assert classes[-1] == slots
        assert (np.diff(classes) > 0).all()
        assert len(classes) <= 12
    np.testing.assert_array_equal(length_classes(5), [1, 2, 3, 4, 5])


def test_each_list_gets_a_field_with_its_length():
    longer, lengths = DATA.lengthened()
    assert [field.name for field in longer.schema.user] == [
        "gender",
        "city",
        "tokens",
        "tokens_length",
    ]
    assert longer.schema.campaign == DATA.schema.campaign
    assert longer.vocabulary.sizes == (*SIZES[:3], 5, *SIZES[3:])
    first = sum(SIZES[:3])
    users = longer.user_rows[np.arange(80)]
    assert users.shape == longer.user_rows.shape == (80, 7)
    count = (DATA.user_rows[:, 2:] < DATA.num_rows).sum(axis=1)
    assert set(count) == {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(users[:, -1], first + count)
    np.testing.assert_array_equal(users, lengths(DATA.user_rows[:]))
    # Users' other values keep their rows, the pad id is again one past the end.
    same = DATA.user_rows[:] < DATA.num_rows
    np.testing.assert_array_equal(users[:, :-1][same], DATA.user_rows[same])
    assert (users[:, :-1][~same] == longer.num_rows).all()
    # Campaigns' values make room.
    np.testing.assert_array_equal(longer.campaign_rows, DATA.campaign_rows + 5)
    assert longer.campaign_rows.max() < longer.num_rows


def test_a_length_takes_no_name_of_a_field():
    schema = Schema(
        (Field("likes", slots=3), Field("likes_length"), Field("likes_length_", slots=2)),
        (Field("topic"),),
    )
    values = [np.arange(2)] * 4
    data = replace(DATA, schema=schema, vocabulary=Vocabulary(tuple(values)))
    longer, _ = data.lengthened()
    names = [field.name for field in longer.schema.user[3:]]
    assert names == ["likes_length__", "likes_length__length"]


def test_lengths_of_a_class_share_a_row_and_lists_have_rows_of_their_own():
    schema = Schema((Field("x", 40), Field("age"), Field("y", 3)), (Field("topic"),))
    num_rows, lengths = 12, Lengths(schema, num_rows=12, num_user_rows=10)
    x, y = np.arange(41), np.arange(41) % 4
    users = np.full((41, 44), num_rows)
    for user, row in enumerate(users):
        row[: x[user]] = 2
        row[41 : 41 + y[user]] = 9
    classes = length_classes(40)
    assert len(classes) < 40
    found = lengths(users)
    # The empty list has the first row, then each class one, up to the largest that is not longer.
    np.testing.assert_array_equal(found[:, -2], [10 + sum(classes <= length) for length in x])
    np.testing.assert_array_equal(found[:, -1], 10 + 1 + len(classes) + y)
    np.testing.assert_array_equal(jax.jit(lengths)(jnp.asarray(users)), found)
