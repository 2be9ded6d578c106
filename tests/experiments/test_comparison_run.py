"""One run: which data it takes, what it keeps, and what it judges beside the methods."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from judged_world import split_of, world

from experiments.comparison import run
from experiments.comparison.curves import curve_campaign
from experiments.comparison.provenance import provenance
from experiments.comparison.run import Data
from experiments.comparison.run_folder import open_run
from metaheac_jax.data.campaign import plain_id
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.methods import Method
from metaheac_jax.methods.stages import Trained
from metaheac_jax.progress import silent
from metaheac_jax.settings import PAPER


@pytest.mark.parametrize(
    ("stage1", "words"),
    [
        (
            lambda label, c: np.where(c == 3, 1, label),
            "campaign 130: stage 1 has 30 seeds among 30",
        ),
        (lambda label, c: np.where(c == 1, 0, label), "campaign 110: stage 1 has 0 seeds among 30"),
    ],
)
def test_a_campaign_of_one_class_is_refused_in_training_and_test(stage1, words):
    data, split = world(), split_of([3, 4], small=[])
    campaign = np.repeat(np.arange(5), 30)
    label = stage1(data.stage1.label, campaign)
    bad = dataclasses.replace(data, stage1=dataclasses.replace(data.stage1, label=label))
    settings = dataclasses.replace(PAPER, campaigns_per_step=3)
    Data(data, split).check(settings)
    with pytest.raises(InputError, match=words):
        Data(bad, split).check(settings)


def test_too_few_training_campaigns_are_refused():
    settings = dataclasses.replace(PAPER, campaigns_per_step=4)
    with pytest.raises(InputError, match="3 training campaigns, but a meta-step takes 4"):
        Data(world(), split_of([3, 4], small=[])).check(settings)


def test_what_a_run_is_about():
    assert Data(world(), split_of([3, 4], small=[])).describe() == {
        "data": "toy",
        "users": 200,
        "campaigns": 5,
        "stage1": 150,
        "stage2": 179,
        "rows": 46,
        "train_campaigns": 3,
        "test_campaigns": 2,
        "threshold": 9,
    }


def test_fewer_examples_keep_both_classes_and_lie_within_more():
    split = split_of([3, 4], small=[3])
    whole = Data(world(), split, without=lambda campaigns: world())

    def kept(data):
        stage = data.dataset.stage1
        own = zip(stage.campaign, stage.user, stage.label, strict=True)
        return {*own}

    def seeds(data):
        return data.dataset.stage1.positives

    some, fewer = whole.with_fewer_examples(0.5, 0.2), whole.with_fewer_examples(0.1, 0.2)
    fraction = np.array([0.5, 0.5, 0.5, 0.2, 0.2])
    np.testing.assert_array_equal(seeds(some), np.ceil(fraction * seeds(whole)))
    non_seeds = [data.dataset.stage1.counts - seeds(data) for data in (some, whole)]
    np.testing.assert_array_equal(non_seeds[0], np.ceil(fraction * non_seeds[1]))
    assert kept(fewer) < kept(some) < kept(whole)
    test = {own for own in kept(fewer) if own[0] >= 3}
    assert test == {own for own in kept(some) if own[0] >= 3}  # not changed by the other fraction
    assert kept(some.apart_from(np.array([0]))) == kept(some)
    assert some.split is split
    np.testing.assert_array_equal(some.dataset.stage2.user, whole.dataset.stage2.user)
    assert some.dataset.name == "toy, stage 1: 0.5 of training and 0.2 of test"
    assert whole.with_fewer_examples(1, 1) is whole


def ranker(quality):
    """A method that ranks a pool by its labels; the worse, the lower the quality."""

    def adapt(of, state, campaigns):
        def scorer(c):
            label = of.dataset.stage2.label[of.dataset.stage2.of(c)]
            return lambda users: state["quality"] * label + np.linspace(0, 1, len(label))

        keys = [plain_id(value) for value in of.dataset.campaign_ids]
        return [scorer(keys.index(c.id)) for c in campaigns]

    return Method("lr", "LR", PAPER, train=lambda of: Trained({"quality": quality}), adapt=adapt)


def run_in(directory, data, methods, **options):
    open_run(directory, {}, resume=(directory / "config.json").is_file())
    return run.run_methods(data, methods, seed=0, directory=directory, progress=silent, **options)


def test_what_a_method_gives_is_kept_with_its_settings(tmp_path):
    data = Data(world(), split_of([0, 1], small=[0]))
    found = run_in(tmp_path, data, [ranker(2.0)])
    assert [c["auc"] for c in found["lr"]["campaigns"]] == [1.0, 1.0]
    assert set(found["lr"]["seconds"]) == {"offline", "customise", "score"}
    assert found["lr"]["settings"] == json.loads(json.dumps(dataclasses.asdict(PAPER)))
    assert found["lr"]["provenance"] == provenance()
    # It is not run again, and not taken for a result of other settings.
    assert run_in(tmp_path, data, [ranker(0.0)]) == found
    other = ranker(2.0).with_settings(online_learning_rate=0.5)
    with pytest.raises(InputError, match=r"lr.json: reached with other settings"):
        run_in(tmp_path, data, [other])


@pytest.mark.parametrize("ids", ["{}", "Misérables {}"])
@pytest.mark.parametrize("judged", [True, False])
def test_the_offline_stage_has_its_steps_and_their_ceiling(tmp_path, judged, ids):
    dataset = world()
    if ids != "{}":
        keys = np.array([ids.format(key).encode() for key in dataset.campaign_ids])
        dataset = dataclasses.replace(dataset, campaign_ids=keys)
    data = Data(dataset, split_of([0, 1], small=[0]))
    judgements = np.array(
        [[2.0, 0.5, 0.75], [4.0, 0.75, 0.625], [6.0, 0.7, 0.5]]
    )  # step, AUC, loss
    trained = Trained({"quality": 2.0}, *[judgements] * judged)
    own = ranker(2.0)

    def train(of):
        # The median of the method's own lines is the time of a step.
        rates = [(own.label, 10.0), (own.label, 20.0), (own.label, 900.0), ("another", 5.0)]
        lines = [{"name": n, "steps_per_second": rate, "seconds": rate} for n, rate in rates]
        lines.append({"name": own.label, "held_out_auc": 0.5})
        of.log.write_text("".join(json.dumps({"step": 1, **line}) + "\n" for line in lines))
        return trained

    method = dataclasses.replace(own, takes_steps=True, train=train)
    method = method.with_settings(
        batch_size=20, campaigns_per_step=3, offline_epochs=3, offline_patience=None
    )
    result = run_in(tmp_path, data, [method])["lr"]
    assert result["seconds"]["offline"] == 900  # as a training that was resumed has it
    found = result["offline"]
    ceiling = 3 * 5  # 90 examples of three training campaigns
    if judged:
        curve = [[2, 0.75, 0.5], [4, 0.625, 0.75], [6, 0.5, 0.7]]
        expected = {"steps": 6, "best_step": 4, "ceiling": ceiling, "curve": curve}
    else:
        expected = {"steps": ceiling, "ceiling": ceiling, "curve": []}
    assert found == {**expected, "step_ms": 50.0}


def test_the_shares_of_an_ensemble_are_in_its_result(tmp_path):
    state = {"quality": 2.0, "network": {"shares": np.array([0.25, 0.25, 0.5])}}
    trained = Trained(state, np.array([[4.0, 0.75, 0.625]]))
    method = dataclasses.replace(ranker(2.0), takes_steps=True, train=lambda of: trained)
    method = method.with_settings(campaigns_per_step=3, offline_patience=None)
    found = run_in(tmp_path, Data(world(), split_of([0, 1], small=[0])), [method])["lr"]
    shares = [0.25, 0.25, 0.5]
    assert found["offline"] == {"best_step": 4, "curve": [[4, 0.625, 0.75]], "shares": shares}


def test_a_method_that_diverges_is_named_with_advice(tmp_path):
    data = Data(world(), split_of([0, 1], small=[0]))
    with pytest.raises(Diverged, match=r"campaign 100: .* not a number; .* leave lr out of"):
        run_in(tmp_path, data, [ranker(np.nan)])
    assert not list((tmp_path / "methods").iterdir())


def test_what_is_no_method_is_judged_beside_the_methods(tmp_path):
    made = world()
    stage2 = dataclasses.replace(made.stage2, probability=made.stage2.label / 2 + 0.25)
    data = Data(
        dataclasses.replace(made, stage2=stage2),
        split_of([0, 1], small=[0]),
        {"activity (no campaign)": -made.stage2.label.astype(float)},
    )
    found = run_in(tmp_path, data, [])
    assert list(found) == ["activity (no campaign)", "oracle"]
    assert found["oracle"]["label"] == "oracle (the true probability)"
    assert [c["auc"] for c in found["oracle"]["campaigns"]] == [1.0, 1.0]
    assert [c["auc"] for c in found["activity (no campaign)"]["campaigns"]] == [0.0, 0.0]


def test_the_drawn_campaign_is_the_median_of_the_small_ones():
    def judged(**groups):
        return [
            {"campaign": 100 + 10 * c, "seeds": seeds, "group": group}
            for group, sizes in groups.items()
            for c, seeds in sizes
        ]

    data = world()
    both = judged(small=[(2, 7), (0, 3), (4, 5)], large=[(1, 50), (3, 60)])
    assert curve_campaign(data, both) == 4
    assert curve_campaign(data, judged(large=[(1, 50), (3, 60)])) == 3


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="sections are counted on Linux")
def test_compiled_programs_are_dropped_when_they_are_many(monkeypatch):
    dropped = []
    monkeypatch.setattr(jax, "clear_caches", lambda: dropped.append(1))
    monkeypatch.setattr(run, "MAX_SECTIONS", 10**9)
    run.forget_compiled()
    assert not dropped
    monkeypatch.setattr(run, "MAX_SECTIONS", 10)
    run.forget_compiled()
    assert dropped


def test_the_general_model_is_judged_without_the_online_stage(tmp_path):
    own = ranker(2.0)

    def adapt(of, state, campaigns):
        quality = 2.0 if of.settings.online_epochs else 0.0
        return own.adapt(of, {"quality": quality}, campaigns)

    method = dataclasses.replace(own, adapt=adapt, takes_steps=True)
    method = method.with_settings(campaigns_per_step=3, offline_patience=None)
    found = run_in(tmp_path, Data(world(), split_of([0, 1], small=[0])), [method])
    for campaign in found["lr"]["campaigns"]:
        assert campaign["auc"] == 1.0
        assert campaign["auc_before"] < 0.6
    method = dataclasses.replace(method, general_scores=False)
    data = Data(world(), split_of([0, 1], small=[0]))
    found = run_in(tmp_path / "none", data, [method])
    assert not any("auc_before" in campaign for campaign in found["lr"]["campaigns"])


def test_an_ensemble_has_taken_the_time_of_its_members(tmp_path):
    """As its log tells, also where most of it was before the training was resumed."""
    own = ranker(2.0)

    def train(of):
        of.log.write_text(
            "".join(
                json.dumps({"name": name, "seconds": seconds, "steps_per_second": 9.0}) + "\n"
                for name, seconds in [
                    (f"{own.label}: head", 100.0),
                    (f"{own.label}: head", 300.0),
                    (f"{own.label}: network", 5000.0),
                    (f"{own.label} of others", 70000.0),
                ]
            )
        )
        return own.train(of)

    method = dataclasses.replace(own, train=train, takes_steps=True)
    method = method.with_settings(campaigns_per_step=3, offline_patience=None)
    found = run_in(tmp_path, Data(world(), split_of([0, 1], small=[0])), [method])
    assert found["lr"]["seconds"]["offline"] == 5300.0
    assert "step_ms" not in found["lr"]["offline"]
