"""Figures of the test campaigns: in the right group, across campaigns, and under ties."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from fixed_scores import fixed, tokens
from judged_world import split_of, world
from toy import aucs, dataset, tiny

from metaheac_jax.audience.evaluating import (
    evaluate,
    group_differences,
    group_means,
    judge_all,
)
from metaheac_jax.audience.expanding import expand
from metaheac_jax.errors import InputError
from metaheac_jax.methods import customise, fit
from metaheac_jax.ranking import auc


def test_every_test_campaign_is_judged_in_its_group_or_named():
    data, split = world(), split_of([1, 2, 3, 4], small=[0, 2])
    labels = [data.stage2.label[data.stage2.of(c)].astype(float) for c in split.test]
    # Campaign 1 is ranked rightly and 2 the wrong way round: judgements must not change places.
    result = judge_all(data, split, [labels[0], -labels[1], *labels[2:]])
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
    json.dumps(result)  # plain numbers


def test_ties_go_to_the_smaller_user_id():
    data, split = world(), split_of([0], small=[])
    key = data.user_ids.copy()
    key[:40] = key[:40][::-1]
    flat = [np.zeros(40)]
    # Label 1 stands at 0, 4, ..., 36: the first two users hold one, the last two (38, 39) none.
    assert judge_all(data, split, flat)["campaigns"][0]["precision"] == 0.5
    other = replace(data, user_ids=key)
    assert judge_all(other, split, flat)["campaigns"][0]["precision"] == 0.0


WORLD = dataset(users=2000, campaigns=6, per_campaign=40, pool=30)


def only_seeds(data):
    """The data without stage-1 non-seeds: random users stand in."""
    return replace(data, stage1=data.stage1.pick(data.stage1.label == 1))


def test_campaigns_are_judged_through_the_steps_of_expanding():
    """With the same random non-seeds, customising and scores, and other seeds give others."""
    data = only_seeds(WORLD)
    general = fit(data.completed(1), "lr", campaigns=[0, 4, 5], seed=1)
    result = evaluate(general, data, seed=5)
    assert result["campaign"].to_list() == [110, 120, 130]
    for own in result.to_dicts():
        c = data.index_of(own["campaign"])
        [model] = customise(general, data, [data.campaign(c, seed=5)], seed=5)
        users, labels = (part[data.stage2.of(c)] for part in (data.stage2.user, data.stage2.label))
        scores = model.score(data.user_rows[users])
        assert own["auc"] == pytest.approx(auc(scores, labels))
        audience = expand(general, data, own["campaign"], size=2000, seed=5)
        known = dict(zip(audience["user_id"], audience["score"], strict=True))
        ids = data.user_ids[users].tolist()
        assert all(known.get(user, score) == score for user, score in zip(ids, scores, strict=True))
    assert not evaluate(general, data, seed=6).equals(result)


def test_who_is_judged():
    data = world()
    general = replace(fixed(tokens, data=data), campaigns=(100,), held_out=("120",))
    result = evaluate(general, data)
    assert result["campaign"].to_list() == [110, 130, 140]
    assert result["why"].is_null().to_list() == [True, False, False]
    none = data.stage1.pick(data.stage1.campaign != 1)
    with pytest.raises(InputError, match="campaign 130: cannot be judged: 19 candidates"):
        evaluate(general, replace(data, stage1=none))
    with pytest.raises(InputError, match="leave campaigns out with metaheac fit --leave-out"):
        evaluate(replace(general, campaigns=(100, 110, 120, 130, 140)), data)


def test_means_are_of_a_groups_campaigns():
    result = evaluate(fixed(tokens), WORLD)
    means = group_means(result)
    assert means["group"].to_list() == ["small", "large"]
    for own in means.to_dicts():
        part = result.filter(group=own["group"])
        assert (own["campaigns"], own["max_seeds"]) == (len(part), part["seeds"].max())
        for name in ("auc", "precision", "recall"):
            assert own[name] == pytest.approx(part[name].mean())


def test_differences_from_another_model_by_hand():
    result = evaluate(fixed(tokens), WORLD)
    changes = np.array([0.1, -0.2, 0.3, 0.1, 0])  # the last campaign is not new to the other model
    judged = result[:5].with_columns(pl.col("auc") - changes)
    for own in group_differences(result, judged).to_dicts():
        part = changes[(judged["group"] == own["group"]).to_numpy()]
        assert own["campaigns"] == len(part)
        assert own["auc"] == pytest.approx(part.mean())
        error = np.std(part, ddof=1) / np.sqrt(len(part)) if len(part) > 1 else None
        assert own["auc_error"] == (error and pytest.approx(error))
        assert own["recall"] == 0
    with pytest.raises(InputError, match=r"no campaign in common .*--leave-out"):
        group_differences(result, judged[:0])


def test_a_model_is_judged_on_what_came_after_it():
    """Also on its own campaigns, but only if it has learned from nothing later."""
    data = dataset(users=800, campaigns=6, per_campaign=80, pool=80)
    rng = np.random.default_rng(0)
    stages = (data.stage1, data.stage2)
    timed = [replace(own, time=rng.integers(0, 100, len(own.user))) for own in stages]
    data = replace(data, stage1=timed[0], stage2=timed[1])
    early = fit(data.until(60), tiny("lr"), campaigns=np.arange(4))
    assert early.end == 60
    judged = evaluate(early, data, since=60)
    assert judged["campaign"].to_list() == data.campaign_ids.tolist()
    divided = data.divided(60)
    assert judged["seeds"].to_list() == divided.stage1.positives.tolist()
    models = customise(early, divided, [divided.campaign(c) for c in range(6)])
    expected = aucs(divided, np.arange(6), [own.score for own in models])
    np.testing.assert_allclose(judged["auc"], expected, atol=1e-6)
    for model, since in ((early, 50), (fit(data, tiny("lr"), campaigns=np.arange(4)), 60)):
        assert evaluate(model, data, since=since)["campaign"].len() == 2
