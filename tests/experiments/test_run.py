"""One run: which data it takes, what it keeps, and what it judges beside the methods."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from judged_world import split_of, world

from experiments.comparison import run
from experiments.comparison.origin import provenance
from experiments.comparison.run import Data
from metaheac_jax.data.campaign import plain_id
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.methods import LogisticRegression, MetaHeacMethod, Trained
from metaheac_jax.progress import silent


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
    Data(data, split).check()
    with pytest.raises(InputError, match=words):
        Data(bad, split).check()


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


def scorers_of(quality, dataset, campaigns):
    """Scorers that rank a pool by its labels; the worse, the lower the quality."""

    def scorer(c):
        label = dataset.stage2.label[dataset.stage2.of(c)]
        return lambda users: quality * label + np.linspace(0, 1, len(label))

    keys = [plain_id(value) for value in dataset.campaign_ids]
    return [scorer(keys.index(c.id)) for c in campaigns]


class Ranker(LogisticRegression):
    """A method that takes no steps and whose scorers have the quality of its penalty."""

    def fit(self, run):
        return Trained({})

    def customise(self, run, state, campaigns):
        return scorers_of(self.config.penalty, run.dataset, campaigns)


class Stepper(MetaHeacMethod):
    """A method that takes steps, as a test says; customising makes its scorers good."""

    train_as = staticmethod(lambda run: Trained({}))

    def fit(self, run):
        return self.train_as(run)

    def customise(self, run, state, campaigns):
        return scorers_of(2.0, run.dataset, campaigns)

    def general_scorers(self, run, state, campaigns):
        return scorers_of(0.0, run.dataset, campaigns)


def stepper(train, **changes):
    """A `Stepper` that is trained by this function of the run."""
    method = Stepper().changed(campaigns_per_step=3, offline_patience=None, **changes)
    method.train_as = train
    return method


def run_in(directory, data, methods, **options):
    (directory / "methods").mkdir(parents=True, exist_ok=True)
    return run.run_methods(data, methods, seed=0, directory=directory, progress=silent, **options)


def test_what_a_method_gives_is_kept_with_its_settings(tmp_path, monkeypatch):
    data = Data(world(), split_of([0, 1], small=[0]))
    found = run_in(tmp_path, data, [Ranker()])
    assert [c["auc"] for c in found["lr"]["campaigns"]] == [1.0, 1.0]
    assert set(found["lr"]["seconds"]) == {"offline", "customise", "score"}
    assert found["lr"]["settings"] == Ranker().config.plain()
    assert found["lr"]["provenance"] == provenance()
    # It is not run again, and not taken for a result of other settings.
    with monkeypatch.context() as patch:
        patch.setattr(run, "run_method", None)
        assert run_in(tmp_path, data, [Ranker()]) == found
    with pytest.raises(InputError, match=r"lr.json: reached with other settings"):
        run_in(tmp_path, data, [Ranker().changed(penalty=2.0)])


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
    trained = Trained({}, *[judgements] * judged)

    def train(of):
        # The median of the method's own lines is the time of a step.
        own = Stepper.label
        rates = [(own, 10.0), (own, 20.0), (own, 900.0), ("another", 5.0)]
        lines = [{"name": n, "steps_per_second": rate, "seconds": rate} for n, rate in rates]
        lines.append({"name": own, "held_out_auc": 0.5})
        of.log.write_text("".join(json.dumps({"step": 1, **line}) + "\n" for line in lines))
        return trained

    method = stepper(train, batch_size=20, offline_epochs=3)
    result = run_in(tmp_path, data, [method])["metaheac"]
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
    state = {"network": {"shares": np.array([0.25, 0.25, 0.5])}}
    trained = Trained(state, np.array([[4.0, 0.75, 0.625]]))
    method = stepper(lambda of: trained)
    found = run_in(tmp_path, Data(world(), split_of([0, 1], small=[0])), [method])["metaheac"]
    shares = [0.25, 0.25, 0.5]
    assert found["offline"] == {"best_step": 4, "curve": [[4, 0.625, 0.75]], "shares": shares}


def test_a_method_that_diverges_is_named_with_advice(tmp_path, monkeypatch):
    good = scorers_of
    monkeypatch.setitem(globals(), "scorers_of", lambda _, *more: good(np.nan, *more))
    data = Data(world(), split_of([0, 1], small=[0]))
    with pytest.raises(Diverged, match=r"campaign 100: .* not a number; .* leave lr out of"):
        run_in(tmp_path, data, [Ranker()])
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
    data = Data(world(), split_of([0, 1], small=[0]))
    found = run_in(tmp_path, data, [stepper(Stepper.train_as), Ranker()])
    for campaign in found["metaheac"]["campaigns"]:
        assert campaign["auc"] == 1.0
        assert campaign["auc_before"] < 0.6
    # LR has no general model.
    assert not any("auc_before" in campaign for campaign in found["lr"]["campaigns"])


def test_an_ensemble_has_taken_the_time_of_its_members(tmp_path):
    """As its log tells, also where most of it was before the training was resumed."""
    own = Stepper

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
        return Trained({})

    found = run_in(tmp_path, Data(world(), split_of([0, 1], small=[0])), [stepper(train)])
    assert found["metaheac"]["seconds"]["offline"] == 5300.0
    assert "step_ms" not in found["metaheac"]["offline"]
