"""The best users, in any order and number of parts."""

import numpy as np
import pyarrow as pa
import pytest

from metaheac_jax.engines.top_users import CAMPAIGN, SCORE, USER, TopUsers
from metaheac_jax.errors import Diverged

CAMPAIGNS = pa.array(["x", "a"])


def best(ids, scores, size):
    """Ids of the best users, by a sort of all."""
    return ids[np.lexsort((ids, -scores))][:size].tolist()


@pytest.mark.parametrize("size", [1, 10, 70, 1000])
def test_parts_give_the_top_of_all(size):
    """Scores have many ties; every user is added twice, as when a block is read again."""
    rng = np.random.default_rng(0)
    ids, scores = rng.permutation(300), rng.integers(0, 9, (300, 2)).astype(np.float32) / 4
    one, merged = (TopUsers(CAMPAIGNS, pa.int64(), size) for _ in range(2))
    for part in np.array_split(np.concatenate([rng.permutation(300) for _ in range(2)]), 7):
        kept = one.add(pa.chunked_array([ids[part]]), scores[part])
        assert kept.num_rows <= 2 * len(part)
        merged.add_table(kept)
    assert kept.num_rows < 2 * len(part) or size == 1000
    for top in (one, merged):
        table = top.table()
        for number, campaign in enumerate(CAMPAIGNS.to_pylist()):
            rows = table.filter(pa.compute.equal(table[CAMPAIGN], campaign))
            assert rows[USER].to_pylist() == best(ids, scores[:, number], size)
            assert rows["rank"].to_pylist() == [*range(1, 1 + min(size, 300))]
        assert table[SCORE].type == pa.float32()


def test_texts_and_zeros_are_tied_by_id():
    top = TopUsers(CAMPAIGNS[:1], pa.string(), 3)
    ids = ["é", "z", "a", "b"]
    top.add(pa.chunked_array([ids]), np.array([[0.0], [-0.0], [0.0], [-1.0]], np.float32))
    assert top.table()[USER].to_pylist() == ["a", "z", "é"]


def test_a_score_that_is_not_a_number_is_refused():
    with pytest.raises(Diverged, match="not a number"):
        TopUsers(CAMPAIGNS[:1], pa.int64(), 3).add(pa.chunked_array([[1]]), np.array([[np.nan]]))
