"""The references: trees, cosine, and the prior of a user whatever the campaign."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from toy import aucs, dataset

from experiments.methods import METHODS, references
from experiments.methods.method import Job
from metaheac_jax.data.dataset import group_by_campaign
from metaheac_jax.presets import PAPER
from metaheac_jax.progress import silent

NAMES = tuple(references.METHODS)
DATA = dataset(campaigns=12, per_campaign=400)
TRAIN, NEW = np.arange(8), np.arange(8, 12)


def job_of(data):
    return Job(data, TRAIN, PAPER, 0, Path("unused"), None, silent)


def with_one_taste(data):
    """The same world, but all campaigns have one taste."""
    liked = data.user_rows[:, 2:] < data.vocabulary.offsets[2] + 10  # one of ten tokens
    probability = np.where(liked.any(axis=1), 0.6, 0.1)

    def relabel(stage, seed):
        label = np.random.default_rng(seed).random(len(stage.user)) < probability[stage.user]
        campaign = np.repeat(np.arange(data.campaigns), stage.counts)
        return group_by_campaign(campaign, stage.user, label, campaigns=data.campaigns)

    return replace(data, stage1=relabel(data.stage1, 1), stage2=relabel(data.stage2, 2))


SAME = with_one_taste(DATA)


def models(name, data):
    job = job_of(data)
    return METHODS[name].online(job, METHODS[name].offline(job), NEW)


# The prior can learn only what all campaigns have in common.
@pytest.mark.parametrize(
    ("name", "data", "least"),
    [("lightgbm", DATA, 0.7), ("cosine", DATA, 0.6), ("prior", SAME, 0.7)],
)
def test_learns(name, data, least):
    found = aucs(data, NEW, models(name, data))
    assert found.mean() > least
    assert found.min() > 0.55


def test_the_prior_knows_no_campaign():
    # Campaigns of opposite tastes: what one wants does not help with another.
    assert 0.35 < aucs(DATA, NEW, models("prior", DATA)).mean() < 0.65
    users = DATA.user_rows[:50]
    first, *others = (model(users) for model in models("prior", DATA))
    assert np.ptp(first) > 0
    for other in others:
        np.testing.assert_array_equal(other, first)
    # Nor the new campaigns' seeds.
    stage = DATA.stage1
    flipped = stage.label.copy()
    flipped[stage.offsets[NEW[0]] :] ^= 1
    again = models("prior", replace(DATA, stage1=replace(stage, label=flipped)))[0](users)
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("name", ["lightgbm", "cosine"])
def test_a_campaign_is_judged_by_its_own_examples_alone(name):
    users, stage = DATA.user_rows[:50], DATA.stage1
    before = [model(users) for model in models(name, DATA)]
    label = stage.label.copy()
    label[stage.of(NEW[0])] ^= 1
    after = [
        model(users) for model in models(name, replace(DATA, stage1=replace(stage, label=label)))
    ]
    assert (before[0] != after[0]).any()
    np.testing.assert_array_equal(before[1:], after[1:])


@pytest.mark.parametrize("name", NAMES)
def test_deterministic_and_silent(name, capfd):
    users = DATA.user_rows[:50]
    first, again = (np.stack([m(users) for m in models(name, DATA)]) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert capfd.readouterr() == ("", "")


def test_trees_give_log_odds():
    (model, *_), of = models("lightgbm", DATA), DATA.stage1.of(NEW[0])
    odds = model(DATA.user_rows[DATA.stage1.user[of]])
    # Boosting keeps the mean probability at the rate, up to shrinkage.
    rate = DATA.stage1.label[of].mean()
    assert np.mean(1 / (1 + np.exp(-odds))) == pytest.approx(rate, abs=0.02)


def test_features_are_rows_that_a_user_has():
    users = np.array([[0, 3, 3, 5], [5, 5, 5, 5]])  # 5 is the pad id
    np.testing.assert_array_equal(
        references.features(users, 5).toarray(), [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    )


def test_cosine_equals_a_naive_loop():
    rows, stage = DATA.rows, DATA.stage1
    known = {int(u) for c in TRAIN for u in stage.user[stage.of(c)]}
    idf = np.zeros(rows)
    for r in range(rows):
        having = sum(r in DATA.user_rows[u] for u in known)
        idf[r] = np.log((1 + len(known)) / (1 + having)) + 1

    def vector(user_rows):
        v = np.zeros(rows)
        for r in user_rows:
            if r < rows:
                v[r] = idf[r]
        return v / np.linalg.norm(v)

    for c, model in zip(NEW[:2], models("cosine", DATA), strict=False):
        of = stage.of(c)
        seeds = [u for u, y in zip(stage.user[of], stage.label[of], strict=True) if y]
        mean = np.mean([vector(DATA.user_rows[u]) for u in seeds], axis=0)
        naive = [vector(r) @ mean / np.linalg.norm(mean) for r in DATA.user_rows[:40]]
        np.testing.assert_allclose(model(DATA.user_rows[:40]), naive, rtol=1e-5)


def test_a_user_of_whom_nothing_is_known_is_like_nobody():
    nobody = np.full((1, DATA.user_rows.shape[1]), DATA.rows)
    assert models("cosine", DATA)[0](nobody) == [0.0]


def test_lr_adds_up_the_values_that_are_there():
    """A list counts as the sum of its values, not their mean, which hides how many they are."""
    job = Job(DATA, np.arange(4), METHODS["lr"].preset(PAPER), 0, Path("unused"), None, silent)
    (model,) = METHODS["lr"].online(job, METHODS["lr"].offline(job), np.array([5]))
    user, pad = DATA.user_rows[0].copy(), DATA.rows
    a, b = np.unique(DATA.user_rows[DATA.user_rows[:, 2:].max(1) < pad][:, 2:])[:2]
    lists = [(pad, pad), (a, pad), (b, pad), (a, b), (b, a)]
    users = np.stack([np.concatenate([user[:2], pair, [pad, pad]]) for pair in lists])
    nothing, only_a, only_b, *both = model(users.astype(np.int32)).astype(float)
    np.testing.assert_allclose(both, only_a + only_b - nothing, atol=1e-5)
    assert min(abs(only_a - nothing), abs(only_b - nothing)) > 1e-3


def test_lr_starts_at_the_base_rate():
    """What all users have in common is the bias's to tell, not the values'."""
    general = METHODS["lr"].offline(replace(job_of(DATA), preset=METHODS["lr"].preset(PAPER)))
    label = np.concatenate([DATA.stage1.label[DATA.stage1.of(c)] for c in TRAIN])
    (bias,) = jax.tree.leaves(general.network)
    np.testing.assert_allclose(1 / (1 + np.exp(-bias)), label.mean(), rtol=1e-5)
    assert not general.table.any()
