"""Figures of the test campaigns: in the right group, across campaigns, and under ties."""

import dataclasses
import json

import numpy as np
import pytest
from fixed_scores import fixed, tokens
from judged_world import split_of, world
from toy import dataset

from metaheac_jax.audience.evaluation import (
    evaluate,
    judge_all,
    pool_rows,
    score_pools,
)
from metaheac_jax.audience.gains import gains_of
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


def test_gains_by_hand():
    """Pools of 40 and 19 users: tenths of 4, and of 2 but the fifth, ninth, ... of 1 or 2."""
    labels = [(np.arange(40) < 9).astype(int), np.arange(19) % 3 == 0]
    gains = gains_of(labels)
    tenths = [10 * np.arange(len(own)) // len(own) for own in labels]
    sizes = sum(np.bincount(own, minlength=10) for own in tenths)
    converts = sum(np.bincount(t, y, minlength=10) for t, y in zip(tenths, labels, strict=True))
    assert [row.decile for row in gains] == list(range(1, 11))
    assert [row.users for row in gains] == sizes.tolist()
    assert [row.converts for row in gains] == converts.tolist()
    rate = converts.sum() / 59
    assert [row.rate for row in gains] == pytest.approx(converts / sizes)
    assert [row.lift for row in gains] == pytest.approx(converts / sizes / rate)
    assert [row.share for row in gains] == pytest.approx(np.cumsum(converts) / converts.sum())


def test_gains_need_a_convert():
    assert gains_of([np.zeros(3, int)]) == []
    assert [own.users for own in gains_of([np.zeros(0, int), np.ones(10, int)])] == [1] * 10


def test_small_pools_have_only_deciles_with_users():
    gains = gains_of([np.array([1, 0, 1, 0])])
    assert [(row.decile, row.users) for row in gains] == [(1, 1), (3, 1), (6, 1), (8, 1)]
    assert gains[-1].share == 1


# Evaluating -------------------------------------------------------------------------------------


WORLD = dataset(users=2000, campaigns=6, per_campaign=40, pool=30)


def only_seeds(data):
    """The data without stage-1 non-seeds: random users stand in."""
    return dataclasses.replace(data, stage1=data.stage1.pick(data.stage1.label == 1))


def test_campaigns_are_judged_through_the_steps_of_expanding():
    """With the same random non-seeds, customising and scores, and other seeds give others."""
    data, scores = only_seeds(WORLD), {}
    general = fit(data.completed(1), "lr", campaigns=[0, 4, 5], seed=1)
    result = evaluate(general, data, seed=5)
    assert [own["campaign"] for own in result.campaigns] == [110, 120, 130]
    for own in result.campaigns:
        audience = expand(general, data, own["campaign"], size=2000, seed=5)
        scores[own["campaign"]] = dict(zip(audience.ids.tolist(), audience.scores, strict=True))
        c = data.index_of(own["campaign"])
        of = data.stage2.of(c)
        users = data.user_ids[data.stage2.user[of]].tolist()
        candidates = [place for place, user in enumerate(users) if user in scores[own["campaign"]]]
        pools = score_pools(method_of(general), general, data, [c], seed=5)
        for place in candidates:
            assert scores[own["campaign"]][users[place]] == pools.scores[0][place]
        assert own["auc"] == pytest.approx(auc(pools.scores[0], data.stage2.label[of]))
    assert evaluate(general, data, seed=6).campaigns != result.campaigns


def test_who_is_judged():
    data = world()
    general = dataclasses.replace(fixed(tokens, data=data), campaigns=(100,), held_out=("120",))
    result = evaluate(general, data)
    assert [own["campaign"] for own in result.campaigns] == [110]
    assert [own["campaign"] for own in result.left_out] == [130, 140]
    assert result.num_known == 0
    named = evaluate(general, data, campaigns=["100", 110])
    assert [own["campaign"] for own in named.campaigns] == [100, 110]
    assert named.num_known == 1
    none = data.stage1.pick(data.stage1.campaign != 1)
    without = evaluate(general, dataclasses.replace(data, stage1=none), campaigns=[100, 110])
    assert without.left_out == [{"campaign": 110, "why": "no seeds of stage 1"}]
    with pytest.raises(InputError, match="leave campaigns out with metaheac fit --leave-out"):
        evaluate(dataclasses.replace(general, campaigns=(100, 110, 120, 130, 140)), data)


def test_means_are_of_a_groups_campaigns_and_gains_of_all():
    result = evaluate(fixed(tokens), WORLD)
    assert {own["group"] for own in result.campaigns} == {"small", "large"}
    for group in ("small", "large"):
        own = [c for c in result.campaigns if c["group"] == group]
        assert result.means(group).auc == pytest.approx(np.mean([c["auc"] for c in own]))
    stage, best = WORLD.stage2, 0
    assert sum(row.converts for row in result.gains) == stage.label.sum()
    for c in range(WORLD.num_campaigns):
        users, labels = stage.user[stage.of(c)], stage.label[stage.of(c)]
        order = np.lexsort((WORLD.user_ids[users], -tokens(WORLD.user_rows[users])))
        best += labels[order][:3].sum()
    assert result.gains[0].converts == best
    content = json.loads(json.dumps(result.to_json()))
    assert content["means"]["small"]["auc"] == result.means("small").auc
    assert content["gains"][0]["users"] == 3 * len(result.campaigns)
    assert result.tables()[0].title == "Fixed"
    assert len(result.tables()) == 2


def test_differences_from_another_model_by_hand():
    result = evaluate(fixed(tokens), WORLD)
    other = json.loads(json.dumps(result.to_json()))
    changes = dict(
        zip(
            [own["campaign"] for own in other["campaigns"]],
            (0.1, -0.2, 0.3, 0.1, 0, 0.2),
            strict=True,
        )
    )
    for own in other["campaigns"]:
        own["auc"] -= changes[own["campaign"]]
    found = result.compare(other)
    for group in ("small", "large"):
        own = [changes[c["campaign"]] for c in result.campaigns if c["group"] == group]
        difference = found.against[group]["auc"]
        assert found.against[group]["campaigns"] == len(own)
        assert difference["mean"] == pytest.approx(np.mean(own))
        error = np.std(own, ddof=1) / np.sqrt(len(own)) if len(own) > 1 else None
        assert difference["error"] == (error and pytest.approx(error))
        assert found.against[group]["recall"]["mean"] == 0
    assert found.to_json()["against"] == found.against
    assert found.tables()[1].rows[0][1] == str(found.against["small"]["campaigns"])
    with pytest.raises(InputError, match="none of the 6 campaigns; evaluate that model"):
        result.compare({"campaigns": []})
    for wrong in ([], {}, {"campaigns": [{"campaign": 1}]}, 7):
        with pytest.raises(InputError, match="give a file from its --out"):
            result.compare(wrong)
