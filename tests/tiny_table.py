"""A table of 60 rows, a network over it, and support and query sets of three campaigns."""

import jax
import numpy as np
from toy import drawn

from metaheac_jax.data.batches import Batch
from metaheac_jax.networks import MLP
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.table.rows import RowIndex

ROWS, WIDTH = 60, 3
LAYOUT = Layout(user_slots=(1, 1, 4), small_fields=(), num_campaign_fields=2)
NETWORK = MLP(widths=(5, 4))


def weights(seed=0):
    """Parameters of the network, and a table."""
    dtype = jax.dtypes.canonicalize_dtype(float)
    table = np.random.default_rng(seed).normal(size=(ROWS, WIDTH)).astype(dtype)
    return drawn(NETWORK, np.zeros((1, 3, WIDTH)), np.zeros((2, WIDTH))), table


def support_and_query(seed=0, rows=ROWS):
    """Batches over the whole table; lists have padding, and so has the end of one campaign."""
    rng, campaigns, examples = np.random.default_rng(seed), 3, 7

    def side():
        user = rng.integers(0, rows, (campaigns, examples, LAYOUT.num_slots))
        user[..., 2:][rng.random((campaigns, examples, 4)) < 0.4] = rows
        weight = np.ones((campaigns, examples))
        weight[1, -2:] = 0
        user[1, -2:] = rows
        campaign = rng.integers(0, rows, (campaigns, 2))
        label = rng.integers(0, 2, (campaigns, examples)).astype(float)
        return Batch(Ids(user.astype(np.int32), campaign.astype(np.int32)), label, weight)

    return side(), side()


def localised(size, *sides, rows=ROWS):
    """The distinct rows of some batches, padded to ``size``, and batches that point into them."""
    index, ids = RowIndex(rows), [side.ids for side in sides]
    found, ids = index.renumber(index.distinct(ids), size, ids)
    return found, [side._replace(ids=own) for side, own in zip(sides, ids, strict=True)]
