"""Pooled trees: the scores are of examples that no model has seen."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from toy import aucs, dataset, with_own_rows

import metaheac_jax as mh
from experiments.baselines import pooled_trees
from metaheac_jax.errors import InputError
from metaheac_jax.methods import Method, Offline, Online, Trained, configured
from metaheac_jax.methods.held_out_campaigns import hold_out_campaigns

DATA = dataset(users=900, campaigns=24, per_campaign=200, tastes=2)
TRAIN, NEW = np.arange(18), np.arange(18, 24)


def remembering(counts, labels, penalty):
    """Weights that give the users of these examples 1 per value that no one else has."""
    del labels, penalty
    return np.where(counts.getnnz(axis=0) == 1, 1.0, 0.0), 0.0


def test_lr_has_not_seen_the_examples_whose_scores_the_trees_learn_from(monkeypatch):
    monkeypatch.setattr(pooled_trees, "fit_regression", remembering)
    rows = pooled_trees.rows_of(Offline(with_own_rows(DATA), TRAIN, 0), TRAIN)
    assert rows.features.shape[0] == len(rows.labels) == len(rows.base) > 0
    np.testing.assert_allclose(rows.features[:, 0].toarray().ravel() + rows.base, 0, atol=1e-9)


def test_pooled_trees_rank_by_the_scores_that_they_read():
    general = mh.fit(DATA, "pooled-trees", campaigns=TRAIN)
    own = [DATA.campaign(c) for c in NEW]
    models = [model.score for model in mh.customise(general, DATA, own)]
    alone = mh.customise(mh.fit(DATA, "lr-lengths", campaigns=TRAIN), DATA, own)
    assert aucs(DATA, NEW, models).mean() > 0.6
    for model, other in zip(models, alone, strict=True):
        pair = model(DATA.user_rows), other.score(DATA.user_rows)
        assert np.corrcoef(pair)[0, 1] > 0.5


def test_trees_are_tuned_on_campaigns_that_they_have_not_seen_and_fitted_to_all(monkeypatch):
    tried, fitted = [], []

    def judge(features, labels, base, settings, parts, patience):
        tried.append(settings)
        np.testing.assert_array_equal(np.sum(parts, axis=0), 1)
        sizes = [[np.unique(rows.campaigns[part]).size for part in parts] for rows in seen]
        assert sizes == [[6, 6, 6]]  # each campaign in one part
        far = abs(settings["num_leaves"] - 15) + abs(settings["min_data_in_leaf"] - 500)
        return far + settings["learning_rate"], 7

    seen, real = [], pooled_trees.rows_of
    monkeypatch.setattr(pooled_trees, "rows_of", lambda *of: seen.append(real(*of)) or seen[-1])
    monkeypatch.setattr(pooled_trees, "cross_validate", judge)
    fit = pooled_trees.fit_matrix
    monkeypatch.setattr(pooled_trees, "fit_matrix", lambda *of: fitted.append(of) or fit(*of))
    general = mh.fit(DATA, "pooled-trees-tuned", campaigns=TRAIN)
    [(features, *_, settings)] = fitted
    assert len(tried) < 27  # not each with each
    assert len({tuple(own.values()) for own in tried}) == len(tried)
    assert features.shape == seen[0].features.shape
    assert set(np.unique(seen[0].campaigns)) == set(TRAIN)
    chosen = {"num_leaves": 15, "min_data_in_leaf": 500, "learning_rate": 0.02}
    assert settings == pooled_trees.TREES | chosen | {"num_iterations": 7}
    assert not general.held_out


def test_trees_that_are_tuned_on_some_examples_are_as_many_as_all_examples_carry(monkeypatch):
    judged = []

    def judge(features, labels, base, settings, parts, patience):
        judged.append((features.shape[0], len(labels), len(base), *map(len, parts)))
        return settings["num_leaves"], 10 * len(parts)

    monkeypatch.setattr(pooled_trees, "cross_validate", judge)
    fit = pooled_trees.fit_matrix
    used = []
    monkeypatch.setattr(pooled_trees, "fit_matrix", lambda *of: used.append(of[3]) or fit(*of))
    mh.fit(DATA, configured("pooled-trees-tuned").changed(tuning_examples=500), campaigns=TRAIN)
    *tuning, last = judged
    assert set(tuning) == {(500,) * 6}
    assert last == (18 * 200,) * 4
    assert [own["num_iterations"] for own in used] == [10]


def test_cross_validation_judges_trees_on_examples_that_they_have_not_seen():
    rng = np.random.default_rng(0)
    signal, label = rng.normal(size=3000), rng.integers(2, size=3000)
    parts = list(np.arange(3)[:, None] == np.repeat(np.arange(3), 1000))
    settings = pooled_trees.TREES | {"min_data_in_leaf": 5}

    def judged(column, start):
        features = csr_matrix(column[:, None])
        return pooled_trees.cross_validate(features, label, start, settings, parts, 10)

    noise, few = judged(signal, np.zeros(3000))
    known, many = judged(signal + 3 * label, np.zeros(3000))
    assert noise == pytest.approx(np.log(2), abs=0.01)
    assert known < 0.3
    assert few < many
    assert judged(signal, 4.0 * (2 * label - 1))[0] == pytest.approx(np.log1p(np.exp(-4)), abs=0.01)


class Remembering(Method):
    """Remembers the campaigns that it was trained on, and the examples that it was customised to.

    The score of a user is the first table row, and far more for a campaign that it was trained on,
    or for an example.
    """

    name, label, default = "remembering", "Remembering", mh.methods.Config()

    trainings = ()

    def train(self, offline):
        known = np.union1d(offline.campaigns, offline.held_out)
        self.trainings = [*self.trainings, known]
        return Trained({"trained": known})

    def adapt(self, online, state, campaigns):
        def scorer(campaign):
            known = {row.tobytes() for row in online.dataset.user_rows[campaign.users]}
            trained = online.dataset.index_of(campaign.id) in state["trained"]
            return lambda users: np.array(
                [row[0] + 1e6 * (trained or row.tobytes() in known) for row in users]
            )

        return list(map(scorer, campaigns))


def test_other_models_have_seen_neither_the_campaign_nor_the_examples(monkeypatch):
    given, real = [], pooled_trees.fit_matrix

    def recording(*training, held_out, **options):
        given.extend([(training[0], training[2]), (held_out[0], held_out[2])])
        return real(*training, held_out=held_out, **options)

    other = Remembering()
    monkeypatch.setattr(pooled_trees.TreesOverHead, "others", [other])
    monkeypatch.setattr(pooled_trees, "fit_matrix", recording)
    data, method = with_own_rows(DATA), pooled_trees.TreesOverHead()
    campaigns, held = hold_out_campaigns(data, TRAIN, 0)
    state = method.fit(Offline(data, campaigns, 0, held_out=held)).state
    size = data.vocabulary.sizes[0]  # of the field with an own table row for each user
    for features, base in given:
        users = features[:, -data.num_rows :][:, :size] @ np.arange(size)
        np.testing.assert_allclose(features[:, 1].toarray().ravel() + base, users, atol=1e-6)
    *parts, last = other.trainings
    left_out = np.concatenate([np.setdiff1d(campaigns, part) for part in parts])
    np.testing.assert_array_equal(np.sort(left_out), campaigns)  # each by one training
    np.testing.assert_array_equal(last, campaigns)
    [model] = method.customise(Online(data, 0), state, [data.campaign(NEW[0])])
    assert np.isfinite(model(data.user_rows[:9])).all()


def test_histories_are_refused(monkeypatch):
    monkeypatch.setattr(pooled_trees.TreesOverHead, "others", [Remembering()])
    data = replace(DATA, schema=replace(DATA.schema, history=True))
    with pytest.raises(InputError, match="histories"):
        mh.fit(data, "pooled-trees-head")


def test_trees_of_all_campaigns_learn_from_new_ones_by_scores_of_unseen_examples(monkeypatch):
    given, fit = [], pooled_trees.fit_matrix
    monkeypatch.setattr(pooled_trees, "cross_validate", lambda *_: (0.0, 5))
    monkeypatch.setattr(pooled_trees, "fit_matrix", lambda *of: given.append(of) or fit(*of))
    general = mh.fit(DATA, "pooled-trees-all", campaigns=TRAIN)
    assert not given  # trees are fitted when the new campaigns are known
    models = mh.customise(general, DATA, [DATA.campaign(c) for c in NEW])
    [(features, labels, base, settings)] = given
    assert settings["num_iterations"] == 5
    every = pooled_trees.rows_of(Offline(DATA, TRAIN, 0), np.append(TRAIN, NEW))
    np.testing.assert_allclose(features.toarray(), every.features.toarray(), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(labels, every.labels)
    np.testing.assert_allclose(base, every.base, rtol=1e-6)
    assert np.isfinite(models[0].score(DATA.user_rows)).all()
