"""Overlap: a plain count of common ids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaheac_jax.audience.overlap import audience_overlap
from metaheac_jax.errors import InputError

audiences = st.lists(st.lists(st.integers(0, 12), min_size=1), min_size=1, max_size=4)


@given(audiences)
def test_equal_to_a_plain_count(ids):
    names = [f"a{i}" for i in range(len(ids))]
    overlap = audience_overlap(names, ids)
    assert overlap.names == tuple(names)
    for i, one in enumerate(ids):
        assert overlap.sizes[i] == len(set(one))
        for j, other in enumerate(ids):
            both = sum(user in other for user in set(one))
            either = len(set(one + other))
            assert overlap.count[i, j] == both
            assert overlap.share[i, j] == both / len(set(one))
            assert overlap.jaccard[i, j] == both / either
    np.testing.assert_array_equal(overlap.count, overlap.count.T)
    np.testing.assert_array_equal(overlap.jaccard.diagonal(), 1)


def test_text_ids():
    several = [["ann", "bob", "bob"], np.array([b"bob"])]  # as in files, and in an `Audience`
    overlap = audience_overlap(["one", "other"], several)
    assert overlap.count.tolist() == [[2, 1], [1, 1]]
    assert overlap.share.tolist() == [[1, 0.5], [1, 1]]


def test_an_audience_of_nobody_is_named():
    with pytest.raises(InputError, match="other: no users"):
        audience_overlap(["one", "other"], [[1], []])
