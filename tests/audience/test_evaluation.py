"""Figures of the test campaigns: in the right group, across campaigns, and under ties."""

import dataclasses
import json

import numpy as np
import pytest
from fixed_scores import fixed_method
from judged_world import split_of, world

from metaheac_jax.audience.evaluation import (
    PoolScores,
    judge_all,
    pool_gains,
    pool_probabilities,
    pool_rows,
    score_pools,
)
from metaheac_jax.audience.gains import gains_of
from metaheac_jax.methods import method_named


def test_every_test_campaign_is_judged_in_its_group_or_named():
    data, split = world(), split_of([1, 2, 3, 4], small=[0, 2])
    labels = [data.stage2.label[data.stage2.of(c)].astype(float) for c in split.test]
    # Campaign 1 is ranked rightly and 2 the wrong way round: judgements must not change places.
    result = judge_all(data, split, [labels[0], -labels[1], *labels[2:]], label="a label")
    assert result["label"] == "a label"
    seeds = data.stage1.positives
    # The top 5% of 40 are 2, of 10 positives.
    assert result["campaigns"] == [
        {"campaign": 110, "seeds": seeds[1], "group": "large"}
        | {"auc": 1.0, "precision": 1.0, "recall": 0.2},
        {"campaign": 120, "seeds": seeds[2], "group": "small"}
        | {"auc": 0.0, "precision": 0.0, "recall": 0.0},
    ]
    assert result["left_out"] == [
        {"campaign": 130, "why": "19 candidates, fewer than 20"},
        {"campaign": 140, "why": "0 positives among 40 candidates"},
    ]
    assert result["pooled_auc"] == {"small": 0.0, "large": 1.0}
    json.dumps(result)  # plain numbers


def test_pooled_auc_compares_across_campaigns():
    data, split = world(), split_of([0, 1], small=[0, 1])
    labels = [data.stage2.label[data.stage2.of(c)].astype(float) for c in split.test]
    # Each campaign is ranked rightly, but all of the second one stands above all of the first.
    result = judge_all(data, split, [labels[0], labels[1] + 2], label="")
    assert [campaign["auc"] for campaign in result["campaigns"]] == [1.0, 1.0]
    # Positives 10 + 10, negatives 30 + 30: right are 300 + 300 within, 300 of 600 across.
    assert result["pooled_auc"] == {"small": 0.75}


def test_probabilities_are_at_the_rate_of_the_pool():
    """A score is the log-odds at the rate of stage 1; the pool has 10 converts of 40."""
    data = world()
    seeds, others = data.stage1.positives[0], data.stage1.counts[0] - data.stage1.positives[0]
    sampled = seeds / others
    assert not 0.9 < sampled / (10 / 30) < 1.1
    lift = np.array([1.0, 4.0, 0.01])
    found = pool_probabilities(data, 0, np.log(sampled * lift).astype(np.float32))
    np.testing.assert_allclose(found / (1 - found), lift * 10 / 30, rtol=1e-5)


def test_ties_go_to_the_smaller_user_id():
    data, split = world(), split_of([0], small=[])
    key = data.user_ids.copy()
    key[:40] = key[:40][::-1]
    flat = [np.zeros(40)]
    # Label 1 stands at 0, 4, ..., 36: the first two users hold one, the last two (38, 39) none.
    assert judge_all(data, split, flat, label="")["campaigns"][0]["precision"] == 0.5
    other = dataclasses.replace(data, user_ids=key)
    assert judge_all(other, split, flat, label="")["campaigns"][0]["precision"] == 0.0


def test_pool_rows_are_those_of_the_campaigns_stage_2():
    data = world()
    np.testing.assert_array_equal(pool_rows(data, 1), data.user_rows[40:80])
    assert pool_rows(data, 3).shape == (19, data.user_rows.shape[1])


def test_pools_are_scored_by_models_customised_to_their_campaigns():
    data, method, calls = world(), method_named("cosine"), []
    general = method.fit(data, campaigns=[0, 4])
    found = score_pools(
        method, general, data, [2, 3], seed=5, progress=lambda *call: calls.append(call)
    )
    assert isinstance(found, PoolScores)
    models = method.customise(general, data, [data.campaign(2), data.campaign(3)], seed=5)
    for model, c, scores in zip(models, (2, 3), found.scores, strict=True):
        np.testing.assert_array_equal(scores, model.score(pool_rows(data, c)))
    assert calls[-2:] == [("score", 1, 2), ("score", 2, 2)]
    assert min(found.customise_seconds, found.score_seconds) > 0
    random_seeds = []
    fixed = fixed_method(lambda users: users[:, 0], random_seeds=random_seeds)
    score_pools(fixed, fixed.fit(data), data, [2], seed=5)
    assert random_seeds == [5]


def test_gains_by_hand():
    """Pools of 40 and 19 users: tenths of 4, and of 2 but the fifth, ninth, ... of 1 or 2."""
    data = world()
    labels = [data.stage2.label[data.stage2.of(c)] for c in (1, 3)]
    # The first pool is ranked rightly, all of the second ties and stays in the order of ids.
    gains = pool_gains(data, [1, 3], [labels[0].astype(float), np.zeros(19)])
    sizes = [4 + sum(10 * i // 19 == d for i in range(19)) for d in range(10)]
    best = np.sort(labels[0])[::-1].reshape(10, 4).sum(axis=1)
    tied = [sum(labels[1][i] for i in range(19) if 10 * i // 19 == d) for d in range(10)]
    converts = best + tied
    assert [row.decile for row in gains] == list(range(1, 11))
    assert [row.users for row in gains] == sizes
    assert [row.converts for row in gains] == converts.tolist()
    rate = converts.sum() / 59
    assert [row.rate for row in gains] == pytest.approx(converts / sizes)
    assert [row.lift for row in gains] == pytest.approx(converts / sizes / rate)
    assert [row.share for row in gains] == pytest.approx(np.cumsum(converts) / converts.sum())
    # Scores of one campaign do not move users of another.
    shifted = pool_gains(data, [1, 3], [labels[0] + 100.0, np.zeros(19)])
    assert shifted == gains


def test_gains_need_a_convert():
    with pytest.raises(ValueError, match="needs a user who converts"):
        gains_of([np.zeros(3, int)])


def test_small_pools_have_only_deciles_with_users():
    data = world(sizes=(40, 40, 40, 4, 40))
    assert len(data.stage2.label[data.stage2.of(3)]) == 4
    gains = pool_gains(data, [3], [np.arange(4.0)])
    assert [row.decile for row in gains] == [1, 3, 6, 8]
    assert [row.users for row in gains] == [1, 1, 1, 1]
    assert gains[-1].share == 1
