"""A tiny data set whose campaigns convert different users, and what tests make of it."""

import hashlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.data.campaign import group_by_campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.storage import MANIFEST, columns_of, write_columns
from metaheac_jax.files import new_directory
from metaheac_jax.methods import configured
from metaheac_jax.ranking import auc
from metaheac_jax.schema import Field, Schema, Vocabulary

SCHEMA = Schema(
    user=(Field("gender"), Field("city"), Field("tokens", 4)),
    campaign=(Field("advertiser"), Field("category")),
)
VOCABULARY = Vocabulary(tuple(np.arange(size) for size in (2, 5, 30, 6, 3)))
SIZES = VOCABULARY.sizes
#: Settings of small networks that are not trained offline and customised in two epochs.
TINY = {
    "width": 3,
    "num_experts": 2,
    "num_critics": 2,
    "batch_size": 32,
    "campaigns_per_step": 2,
    "offline_epochs": 0,
    "online_learning_rate": 0.02,
    "online_epochs": 2,
    "online_patience": None,
    "num_factors": 2,
    "patience": None,
}


def tiny(name, **changes):
    """A method with those of `TINY` and of the changes that it has."""
    method = configured(name)
    wanted = {key: value for key, value in (TINY | changes).items() if key in method.config}
    return method.changed(**wanted)


def population(users, campaigns, rng, tastes=None):
    """Rows of users and of campaigns, and (C, U) the probability that a user converts."""
    offsets, pad = VOCABULARY.offsets, VOCABULARY.num_rows
    tokens = np.argsort(rng.random((users, SIZES[2])), axis=1)[:, :4] + offsets[2]
    tokens[np.arange(4) >= rng.integers(0, 5, (users, 1))] = pad
    one = rng.integers(0, SIZES[:2], (users, 2)) + offsets[:2]
    user_rows = np.concatenate([one, tokens], axis=1).astype(np.int32)
    kinds = rng.integers(0, SIZES[3:], (campaigns, 2))
    if tastes is None:
        taste = rng.normal(size=(campaigns, pad + 1))
    else:
        shared = rng.normal(size=(tastes, pad + 1)) / np.sqrt(tastes)
        taste = rng.normal(size=(campaigns, tastes)) @ shared
    taste = taste * (np.arange(pad + 1) < pad)
    odds = taste[:, user_rows].sum(-1) - 1.2
    campaign_rows = (kinds + offsets[3:]).astype(np.int32)
    return user_rows, campaign_rows, 1 / (1 + np.exp(-odds))


def dataset(users=600, campaigns=12, per_campaign=300, seed=0, pool=200, tastes=None):
    """Conversion follows a campaign's taste for users' values; about a quarter converts.

    A campaign's taste is its own, or a mixture of a few ``tastes`` that all campaigns share.
    """
    rng = np.random.default_rng(seed)
    user_rows, campaign_rows, probability = population(users, campaigns, rng, tastes)

    def stage(count):
        user = np.concatenate([rng.choice(users, count, replace=False) for _ in range(campaigns)])
        campaign = np.repeat(np.arange(campaigns), count)
        label = rng.random(len(user)) < probability[campaign, user]
        return group_by_campaign(campaign, user, label, num_campaigns=campaigns)

    return Dataset(
        name="toy",
        schema=SCHEMA,
        vocabulary=VOCABULARY,
        user_ids=np.arange(users, dtype=np.int64) * 7 + 3,
        user_rows=user_rows,
        campaign_ids=np.arange(campaigns, dtype=np.int64) * 10 + 100,
        campaign_rows=campaign_rows,
        stage1=stage(per_campaign),
        stage2=stage(pool),
    )


def write_dataset(data, target):
    """Writes a data set that was made in memory, or was changed there."""
    with new_directory(target, marker=MANIFEST) as folder:
        write_columns(data, folder)


def digest_of(data):
    """SHA-256 of all columns, whatever the data is called."""
    parts = {name: np.asarray(column[:]) for name, column in columns_of(data).items()}
    told = {name: (own.dtype.str, own.shape, own.tobytes()) for name, own in parts.items()}
    return hashlib.sha256(repr(told).encode()).hexdigest()


def check_data(data):
    """Checks that the columns of a data set fit together."""
    fields, slots = data.schema.fields, data.schema.num_slots
    for values in data.vocabulary.values:
        assert (values[1:] > values[:-1]).all()
    assert len(data.vocabulary.values) == len(fields)
    assert len(np.unique(data.user_ids)) == data.num_users
    assert (data.campaign_ids[1:] > data.campaign_ids[:-1]).all()
    counts = [own.slots for own in fields]
    first = np.repeat(data.vocabulary.offsets, counts)
    last = first + np.repeat(data.vocabulary.sizes, counts)
    sides = ((data.user_rows[:], slice(slots)), (data.campaign_rows, slice(slots, None)))
    for rows, own in sides:
        inside = (rows >= first[own]) & (rows < last[own]) | (rows == data.num_rows)
        assert inside[:, data.schema.num_numbers if rows is sides[0][0] else 0 :].all()
    for stage in data.stages.values():
        assert len(stage.counts) == data.num_campaigns
        assert stage.offsets[0] == 0
        assert (stage.counts >= 0).all()
        columns = (stage.user, stage.label, stage.in_audience)
        assert {len(own) for own in columns} == {stage.offsets[-1]}
        assert ((stage.user >= 0) & (stage.user < data.num_users)).all()
        assert np.isin(stage.label, (0, 1)).all()
    for own in data.sensitive.values():
        assert len(own.codes) == data.num_users
        assert ((own.codes >= 0) & (own.codes <= len(own.values))).all()


def with_own_rows(data):
    """The same examples, but every user has a value, and a row, of its own: user i has row i."""
    users, campaigns = np.arange(data.num_users), np.arange(data.num_campaigns)
    return replace(
        data,
        schema=Schema((Field("id"),), (Field("id of the campaign"),)),
        vocabulary=Vocabulary((users, campaigns)),
        user_rows=users.astype(np.int32)[:, None],
        campaign_rows=(len(users) + campaigns).astype(np.int32)[:, None],
    )


def pool(data, campaign):
    """(P, S) rows of the users in a campaign's pool, and their labels."""
    of = data.stage2.of(campaign)
    return data.user_rows[data.stage2.user[of]], data.stage2.label[of]


def aucs(data, campaigns, models):
    """The AUC of each campaign's model on its pool."""
    pools = [pool(data, c) for c in campaigns]
    return np.array([auc(m(users), label) for m, (users, label) in zip(models, pools, strict=True)])


def distinct_users(data, count):
    """Examples of campaign 0 whose users all differ, as ids tell."""
    examples = campaign_examples(data, data.campaign(0))
    _, first = np.unique(examples.ids.user, axis=0, return_index=True)
    return examples.pick(np.sort(first)[:count])


def drawn(network, *inputs, seed=1):
    """Random parameters, without compiling the network's own initial values."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda leaf: jnp.asarray(0.5 * rng.normal(size=leaf.shape)), shapes)


def with_shares(general, shares=(0.2, 0.3, 0.5)):
    """The model of an ensemble in which every member has a share; other models as they are."""
    if general.method != "ensemble":
        return general
    return replace(general, state={**general.state, "shares": np.array(shares)})
