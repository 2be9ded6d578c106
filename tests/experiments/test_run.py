"""One run: which data it takes, what it keeps, and what it judges beside the methods."""

import dataclasses
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
from metaheac_jax.methods.method import Method
from metaheac_jax.progress import silent


def test_a_campaign_of_one_class_is_refused_in_training_and_test():
    data, split = world(), split_of([3, 4], small=[])
    campaign = np.repeat(np.arange(5), 30)
    Data(data, split).check()
    for c, label, id_of in ((3, 1, 130), (1, 0, 110)):
        labels = np.where(campaign == c, label, data.stage1.label)
        bad = dataclasses.replace(data, stage1=dataclasses.replace(data.stage1, label=labels))
        with pytest.raises(InputError, match=f"campaign {id_of}: stage 1 has {30 * label} seeds"):
            Data(bad, split).check()


def scorers_of(quality, dataset, campaigns):
    """Scorers that rank a pool by its labels; the worse, the lower the quality."""

    def scorer(c):
        label = dataset.stage2.label[dataset.stage2.of(c)]
        return lambda users: quality * label + np.linspace(0, 1, len(label))

    keys = [plain_id(value) for value in dataset.campaign_ids]
    return [scorer(keys.index(c.id)) for c in campaigns]


class Ranker(LogisticRegression):
    """A method that takes no steps and whose scorers have the quality of its penalty."""

    columns = Method.columns

    def train(self, offline):
        return Trained({})

    def adapt(self, online, state, campaigns):
        return scorers_of(self.config.penalty, online.dataset, campaigns)


class Stepper(MetaHeacMethod):
    """A method that takes steps, as a test says; customising makes its scorers good."""

    columns = Method.columns
    train_as = staticmethod(lambda run: Trained({}))

    def train(self, offline):
        return self.train_as(offline)

    def adapt(self, online, state, campaigns):
        return scorers_of(2.0, online.dataset, campaigns)

    def general_scorers(self, online, state, campaigns):
        return scorers_of(0.0, online.dataset, campaigns)


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


def test_a_method_that_diverges_is_named_with_advice(tmp_path, monkeypatch):
    good = scorers_of
    monkeypatch.setitem(globals(), "scorers_of", lambda _, *more: good(np.nan, *more))
    data = Data(world(), split_of([0, 1], small=[0]))
    with pytest.raises(Diverged, match=r"campaign 100: .* not a number; .* leave lr out of"):
        run_in(tmp_path, data, [Ranker()])
    assert not list((tmp_path / "methods").iterdir())


def test_what_is_no_method_is_judged_beside_the_methods(tmp_path):
    made = world()
    label = made.stage2.label.astype(float)
    split, scores = split_of([0, 1], small=[0]), {"activity (no campaign)": -label}
    data = Data(made, split, scores, oracle=label / 2 + 0.25)
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
