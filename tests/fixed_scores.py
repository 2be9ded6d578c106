"""General models whose customised models score users in a fixed way."""

from dataclasses import replace

import numpy as np
from toy import dataset

from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods import Config, Method, Trained, fit, register

DATA = dataset(users=400, campaigns=3, per_campaign=40, pool=30)


def fixed(score, *, data=DATA, seen=None, random_seeds=None, name="fixed"):
    """A general model of a method that is registered, whose scorers are all ``score``.

    It appends campaigns to ``seen``, and the random seed of customising to ``random_seeds``. If
    ``score`` is a dict, a campaign's scorer is that of its id.
    """

    class Fixed(Method):
        label, default = "Fixed", Config()

        def train(self, offline):
            return Trained({})

        def adapt(self, online, state, campaigns):
            (seen if seen is not None else []).extend(campaigns)
            (random_seeds if random_seeds is not None else []).append(online.seed)
            return [score[own.id] if isinstance(score, dict) else score for own in campaigns]

    Fixed.name = name
    register(Fixed)
    return replace(fit(data, Fixed()), campaigns=())


def tokens(users):
    """Scores with many ties: the number of a user's values."""
    return (users < DATA.num_rows).sum(axis=1).astype(np.float32)


def campaign_of(seeds, others=(), *, found=(), id=None, data=DATA):
    """A campaign of these users, by index."""
    users = np.array([*seeds, *others], np.int32)
    labels = np.repeat(np.array([1, 0], np.int8), [len(seeds), len(others)])
    return Campaign(id, data.campaign_rows[0], users, labels, found=np.array(found, int))
