"""Figures of the test campaigns: in the right group, across campaigns, and under ties."""

import dataclasses
import json

import numpy as np
import polars as pl
import pytest
from fixed_scores import fixed, tokens
from judged_world import split_of, world
from toy import dataset

from metaheac_jax.audience.evaluation import evaluate, judge_all, pool_rows, score_pools
from metaheac_jax.audience.retrieve import expand
from metaheac_jax.errors import InputError
from metaheac_jax.methods import customise, fit, method_of
from metaheac_jax.ranking import auc


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
    data, calls = world(), []
    general = fit(data, "lr", campaigns=[0, 4])
    progress = lambda *call: calls.append(call)  # noqa: E731
    found = score_pools(method_of(general), general, data, [2, 3], seed=5, progress=progress)
    campaigns = [data.campaign(2), data.campaign(3)]
    models = customise(general, data, campaigns, seed=5)
    for model, c, scores in zip(models, (2, 3), found.scores, strict=True):
        np.testing.assert_array_equal(scores, model.score(pool_rows(data, c)))
    assert calls[-2:] == [("score", 1, 2), ("score", 2, 2)]
    assert min(found.customise_seconds, found.score_seconds) > 0


# Evaluating -------------------------------------------------------------------------------------


WORLD = dataset(users=2000, campaigns=6, per_campaign=40, pool=30)


def only_seeds(data):
    """The data without stage-1 non-seeds: random users stand in."""
    return dataclasses.replace(data, stage1=data.stage1.pick(data.stage1.label == 1))


def test_campaigns_are_judged_through_the_steps_of_expanding():
    """With the same random non-seeds, customising and scores, and other seeds give others."""
    data = only_seeds(WORLD)
    general = fit(data.completed(1), "lr", campaigns=[0, 4, 5], seed=1)
    result = evaluate(general, data, seed=5)
    assert result.campaigns["campaign"].to_list() == [110, 120, 130]
    for own in result.campaigns.to_dicts():
        audience = expand(general, data, own["campaign"], size=2000, seed=5)
        scores = dict(zip(audience["user_id"], audience["score"], strict=True))
        c = data.index_of(own["campaign"])
        of = data.stage2.of(c)
        pools = score_pools(method_of(general), general, data, [c], seed=5)
        for place, user in enumerate(data.user_ids[data.stage2.user[of]].tolist()):
            assert user not in scores or scores[user] == pools.scores[0][place]
        assert own["auc"] == pytest.approx(auc(pools.scores[0], data.stage2.label[of]))
    assert not evaluate(general, data, seed=6).campaigns.equals(result.campaigns)


def test_who_is_judged():
    data = world()
    general = dataclasses.replace(fixed(tokens, data=data), campaigns=(100,), held_out=("120",))
    result = evaluate(general, data)
    assert result.campaigns["campaign"].to_list() == [110]
    assert [own["campaign"] for own in result.left_out] == [130, 140]
    none = data.stage1.pick(data.stage1.campaign != 1)
    with pytest.raises(InputError, match="campaign 130: cannot be judged: 19 candidates"):
        evaluate(general, dataclasses.replace(data, stage1=none))
    with pytest.raises(InputError, match="leave campaigns out with metaheac fit --leave-out"):
        evaluate(dataclasses.replace(general, campaigns=(100, 110, 120, 130, 140)), data)


def test_means_are_of_a_groups_campaigns():
    result = evaluate(fixed(tokens), WORLD)
    means = result.means()
    assert means["group"].to_list() == ["small", "large"]
    for own in means.to_dicts():
        part = result.campaigns.filter(group=own["group"])
        assert own["campaigns"] == len(part)
        for name in ("auc", "precision", "recall"):
            assert own[name] == pytest.approx(part[name].mean())


def test_differences_from_another_model_by_hand():
    result = evaluate(fixed(tokens), WORLD)
    changes = np.array([0.1, -0.2, 0.3, 0.1, 0])  # the last campaign is not new to the other model
    judged = result.campaigns[:5].with_columns(pl.col("auc") - changes)
    other = dataclasses.replace(result, campaigns=judged)
    for own in result.differences(other).to_dicts():
        part = changes[(judged["group"] == own["group"]).to_numpy()]
        assert own["campaigns"] == len(part)
        assert own["auc"] == pytest.approx(part.mean())
        error = np.std(part, ddof=1) / np.sqrt(len(part)) if len(part) > 1 else None
        assert own["auc_error"] == (error and pytest.approx(error))
        assert own["recall"] == 0
    with pytest.raises(InputError, match=r"no campaign in common .*--leave-out"):
        result.differences(dataclasses.replace(result, campaigns=judged[:0]))
