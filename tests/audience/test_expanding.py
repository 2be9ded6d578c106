"""Audiences against a sort of all scores, and against the models' own scores."""

import tracemalloc
from dataclasses import replace

import jax
import numpy as np
import polars as pl
import pytest
from fixed_scores import campaign_of, fixed
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from toy import dataset

from metaheac_jax.audience import best_users
from metaheac_jax.audience.calibration import calibrate
from metaheac_jax.audience.expanding import expand
from metaheac_jax.backend import Profile
from metaheac_jax.data import user_ids
from metaheac_jax.data.campaign import groups_of
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.methods import METHODS, configured, customise, fit
from metaheac_jax.ranking import percent_of
from metaheac_jax.schema import Vocabulary

USERS = 97
DATA = dataset(users=USERS, campaigns=3, per_campaign=40, pool=30)
DATA = replace(DATA, user_ids=np.random.default_rng(8).permutation(DATA.user_ids))
CAMPAIGN = campaign_of([3, 50, 96], [4], data=DATA)


def few_values(rows):
    """Scores with many ties."""
    return (rows.sum(axis=1) % 7).astype(np.float32)


def other_values(rows):
    """Scores in another order, with ties."""
    return (rows[:, 0] * 3 - rows[:, -1] % 5).astype(np.float32)


def plain(score, left_out):
    """Ids and scores of all users but some, by index, best first, ties by id."""
    scores, kept = score(DATA.user_rows[:]), ~np.isin(np.arange(USERS), left_out)
    order = np.lexsort((DATA.user_ids[kept], -scores[kept]))
    return DATA.user_ids[kept][order], scores[kept][order]


def untrained(name):
    """A method that customises initial values in one epoch."""
    sizes = {"width": 3, "batch_size": 32, "campaigns_per_step": 2, "offline_epochs": 0}
    sizes |= {"online_epochs": 1, "online_patience": None, "online_learning_rate": 0.02}
    known = METHODS[name].default
    return configured(name, **{key: value for key, value in sizes.items() if key in known})


def test_a_control_group_depends_on_the_ids_alone():
    """It grows with the fraction, and is another one for another campaign."""
    general = fixed(few_values, data=DATA)
    whole = expand(general, DATA, CAMPAIGN, size=90)
    groups = {}
    for share in (0.2, 0.5):
        found = expand(general, DATA, CAMPAIGN, size=90, hold_out=share)
        assert found.drop("group").equals(whole)
        smaller = expand(general, DATA, CAMPAIGN, size=40, hold_out=share)
        assert smaller.equals(found[:40])
        groups[share] = set(found.filter(group="control")["user_id"])
        other = replace(CAMPAIGN, id="other")
        found = expand(general, DATA, other, size=90, hold_out=share)
        assert set(found.filter(group="control")["user_id"]) != groups[share]
    assert groups[0.2] < groups[0.5]
    assert [own for own in range(20) if groups_of(["tea"], [own], 0.1) == ["control"]] == [0, 5, 14]
    sizes = [groups_of(["tea"] * 10**5, range(10**5), 0.1).count("control")]
    assert sizes == pytest.approx([10**4], rel=0.03)
    with pytest.raises(InputError, match="hold_out: expected at least 0 and less than 1, got 1"):
        expand(general, DATA, CAMPAIGN, size=9, hold_out=1)


some_users = st.sets(st.integers(0, USERS - 1), min_size=1, max_size=20)
size_or_percent = st.one_of(
    st.integers(1, USERS + 9).map(lambda size: {"size": size}),
    st.floats(0.01, 100).map(lambda percent: {"percent": percent}),
)


@given(
    block=st.integers(1, USERS + 1),
    size=size_or_percent,
    seeds=st.tuples(some_users, some_users),
    pool=st.none() | st.sets(st.integers(0, USERS - 1), min_size=1),
    exclude=st.sets(st.integers(0, USERS - 1), max_size=USERS),
)
@settings(max_examples=100)
def test_audiences_are_the_tops_of_sorts_of_all(block, size, seeds, pool, exclude):
    scores = {"a": few_values, "b": other_values}
    campaigns = [
        campaign_of(sorted(own), id=id, data=DATA) for id, own in zip("ab", seeds, strict=True)
    ]
    options = {} if pool is None else {"pool": DATA.user_ids[sorted(pool)]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_users, "_BLOCK", block)
        general = fixed(scores, data=DATA)
        excluded = DATA.user_ids[sorted(exclude)]
        found = expand(general, DATA, campaigns, exclude=excluded, **size, **options)
    assert found.columns == ["campaign_id", "rank", "user_id", "score"]
    assert set(found["campaign_id"]) <= {"a", "b"}
    outside = set() if pool is None else set(range(USERS)) - pool
    for id, own in zip("ab", seeds, strict=True):
        audience = found.filter(campaign_id=id)
        ids, ordered = plain(scores[id], [*own, *outside, *exclude])
        count = size.get("size") or max(1, percent_of(len(ids), size["percent"]))
        assert audience["rank"].to_list() == list(range(1, 1 + min(count, len(ids))))
        np.testing.assert_array_equal(audience["user_id"], ids[:count])
        np.testing.assert_array_equal(audience["score"], ordered[:count])


def test_random_non_seeds_come_from_the_pool_and_users_to_exclude_are_among_them():
    seen = []
    general = fixed(few_values, data=DATA, seen=seen)
    stage = DATA.stage1.pick(DATA.stage1.label == 1)
    data, pool = replace(DATA, stage1=stage), DATA.user_ids[:80]
    expand(general, data, 100, size=5, pool=pool, exclude=pool[:70], seed=3)
    [campaign] = seen
    expected = data.campaign(0, seed=3, pool=data.mask_of(pool))
    np.testing.assert_array_equal(campaign.users, expected.users)
    others = campaign.users[campaign.labels == 0]
    assert others.max() < 80
    assert others.min() < 70


@pytest.mark.parametrize(
    ("name", "devices", "platform"),
    [
        ("lr", 1, "cpu"),
        ("mlp-pretraining", 3, "cpu"),
        ("mlp-pretraining", 2, "tpu"),
        ("solved-head", 1, "cpu"),
        ("solved-head", 2, "tpu"),
        ("ensemble", 1, "tpu"),
    ],
)
def test_scores_are_those_of_the_customised_model(monkeypatch, name, devices, platform):
    """Of campaigns by id, in blocks of any size, whoever is in a user's block and on any device."""
    monkeypatch.setattr(best_users, "_BLOCK", 20)
    own = Profile(chunk=20, keeps_top=platform == "tpu")
    monkeypatch.setattr(best_users, "profile", lambda: own)
    if platform == "tpu":
        monkeypatch.setattr(best_users, "_on_host", None)
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1] * devices)
    general = fit(DATA, untrained(name), campaigns=[0, 1])
    campaigns = [DATA.campaign(c) for c in (1, 2)]
    models = customise(general, DATA, campaigns, seed=5)
    found = [expand(general, DATA, "120", size=USERS, seed=5)]
    found += expand(general, DATA, [110, 120], size=USERS, seed=5).partition_by("campaign_id")
    for audience, model in zip(found, [models[1], *models], strict=True):
        assert audience["score"].dtype == pl.Float32
        users = DATA.find_users(audience["user_id"])
        own = model.score(DATA.user_rows)[users]
        if name in ("lr", "solved-head") or platform == "tpu":  # together, or in small chunks
            np.testing.assert_allclose(audience["score"], own, atol=1e-5)
        else:
            np.testing.assert_array_equal(audience["score"], own)
        assert set(users) == set(range(USERS)) - set(model.campaign.seeds)


def test_probabilities_are_calibrated_at_the_rate_of_the_pool():
    seen = []
    rows = dataset(users=1000, campaigns=2, per_campaign=400, pool=30)
    general, campaign = fixed(few_values, data=rows, seen=seen), rows.campaign(1)
    campaign = replace(campaign, found=campaign.users[:40])
    options = {"pool": rows.user_ids[:900], "exclude": rows.user_ids[:50], "seed": 4}
    audience = expand(general, rows, campaign, percent=50, probability=True, **options)
    rate = campaign.num_given_seeds / 900
    [(slope, intercept)] = calibrate(general, rows, [campaign], [rate], seed=4)
    chances = expit(slope * audience["score"].to_numpy() + intercept)
    np.testing.assert_allclose(audience["probability"], chances, rtol=1e-6)
    assert len(seen) == 3  # calibrated and customised, and calibrated here
    assert "probability" not in expand(general, rows, campaign, percent=50, **options).columns
    with pytest.raises(InputError, match="more seeds than users in the pool; omit probability"):
        expand(general, rows, campaign, size=5, probability=True, pool=rows.user_ids[:20])


def test_data_with_other_values_has_the_rows_of_the_model():
    """The data has grown by a value: users and a campaign of it are as the model knows them."""
    values = tuple(np.append(own, 99) for own in DATA.vocabulary.values)
    grown = DATA.encoded_for(DATA.schema, Vocabulary(values))
    general = fixed(few_values, data=DATA)
    seen: list = []
    for campaign in (110, grown.campaign(1)):
        audience = expand(fixed(few_values, data=DATA, seen=seen), grown, campaign, size=USERS)
        expected = expand(general, DATA, 110, size=USERS)
        assert audience.equals(expected)
        np.testing.assert_array_equal(seen[-1].rows, DATA.campaign_rows[1])


def test_memory_does_not_grow_with_the_scores_of_the_pool(monkeypatch):
    """A user of the data takes some bytes for who may be in the audience, and no more."""
    for module in (best_users, user_ids):
        monkeypatch.setattr(module, "_BLOCK", 1000)

    def peak(num_users):
        ids = np.random.default_rng(0).permutation(num_users)
        rows = np.resize(DATA.user_rows[:], (num_users, DATA.user_rows.shape[1]))
        data = replace(DATA, user_ids=ids, user_rows=rows)
        general = fixed(few_values, data=data)
        tracemalloc.start()
        audience = expand(general, data, CAMPAIGN, size=100, exclude=ids[:50])
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(audience) == 100
        return most

    assert peak(400_000) - peak(100_000) < 4 * 300_000


def test_nobody_left_is_an_empty_audience():
    found = expand(fixed(None, data=DATA), DATA, CAMPAIGN, size=5, exclude=DATA.user_ids)
    assert found.is_empty()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "size: give one of size and percent"),
        ({"size": 5, "percent": 5}, "size: give one of size and percent"),
        ({"size": 0}, "size: expected a whole number of 1 or more, got 0"),
        ({"percent": 0}, "percent: expected more than 0"),
        ({"percent": 100.5}, "percent: expected more than 0 and at most 100, got 100.5"),
        ({"percent": float("nan")}, "percent: expected more than 0"),
        ({"size": 5, "pool": [-1]}, "pool: 0 of 1 ids are users; 1 is not, such as -1 "),
        ({"size": 5, "exclude": [1.5]}, r"exclude: item 1 is 1\.5, expected a plain whole"),
        ({"size": 5, "campaigns": 99}, "toy: has no campaign '99'"),
    ],
)
def test_what_makes_no_sense_is_refused(options, words):
    wanted = {"data": DATA, "campaigns": CAMPAIGN} | options
    with pytest.raises(InputError, match=words):
        expand(fixed(few_values, data=DATA), **wanted)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_a_score_that_is_not_a_number_gives_no_audience(monkeypatch, platform):
    """Where a model is no program of jax, the host chooses on any platform."""
    monkeypatch.setattr(best_users, "profile", lambda: Profile(keeps_top=platform == "tpu"))
    general = fixed(lambda rows: np.full(len(rows), np.nan, np.float32), data=DATA)
    with pytest.raises(Diverged, match="a score of fixed is not a number"):
        expand(general, DATA, CAMPAIGN, size=5)
