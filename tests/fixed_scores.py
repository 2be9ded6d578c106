"""Methods whose customised models score users in a fixed way, and held-out seeds for them."""

import numpy as np
from toy import dataset

from metaheac_jax.audience.held_out_seeds import hold_out_seeds
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.stages import Trained
from metaheac_jax.settings import PAPER

DATA = dataset(users=400, campaigns=3, per_campaign=40, pool=30)
ATTRIBUTES = {"advertiser": 1, "category": 0}


def fixed_method(score, seen=None, random_seeds=None):
    """A method whose scorers are all ``score``.

    It appends campaigns to ``seen``, and the random seed of customising to ``random_seeds``.
    """

    def adapt(run, state, campaigns):
        if seen is not None:
            seen.extend(campaigns)
        if random_seeds is not None:
            random_seeds.append(run.seed)
        return [score for _ in campaigns]

    return Method("fixed", "Fixed", PAPER, train=lambda run: Trained({}), adapt=adapt)


def tokens(users):
    """Scores with many ties: the number of a user's values."""
    return (users < DATA.num_rows).sum(axis=1).astype(np.float32)


def held_out(score, *, data=DATA, num_seeds=100, seen=None, exclude=(), seed=0):
    """Holds out some seeds of a campaign whose seeds are the first users of the data."""
    method = fixed_method(score, seen)
    campaign = data.new_campaign(data.user_ids[:num_seeds], ATTRIBUTES, non_seeds_per_seed=1)
    return hold_out_seeds(method, method.fit(data), data, campaign, exclude=exclude, seed=seed)
