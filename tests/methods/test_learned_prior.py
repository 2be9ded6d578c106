"""The learned prior: what it gains, what moves it, and how it is scored."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy.special import expit
from toy import aucs, dataset

import metaheac_jax as mh
from metaheac_jax.methods import Offline, Online, configured
from metaheac_jax.methods.learned_prior import LearnedPrior, Prior, choose_correlations
from metaheac_jax.methods.linear_head import LinearHead
from metaheac_jax.methods.user_features import factors_of
from metaheac_jax.model import Judgement
from metaheac_jax.solvers.posterior import Examples, Gaussian, Learned, learn_prior

DATA = dataset(users=800, campaigns=26, per_campaign=120, tastes=2)
TRAIN, NEW = np.arange(20), np.arange(20, 26)
METHOD = configured("learned-prior").changed(num_coordinates=3, sums=False, num_directions=0)


@pytest.fixture(scope="module")
def general():
    return mh.fit(DATA, METHOD, campaigns=TRAIN)


def few(campaign, count=24):
    """A campaign with a few of its examples."""
    return campaign.pick(np.arange(len(campaign.users)) % (120 // count) == 0)


def test_few_seeds_suffice_where_campaigns_have_tastes_in_common(general):
    own = [few(DATA.campaign(c)) for c in NEW]
    alone = mh.fit(DATA, "lr", campaigns=TRAIN)
    found, regression = (
        aucs(DATA, NEW, [model.score for model in mh.customise(of, DATA, own)]).mean()
        for of in (general, alone)
    )
    assert found > regression + 0.03


def test_features_are_the_best_on_held_out_campaigns(monkeypatch):
    tried, learned = [], LearnedPrior._learned

    def noted(self, run, network, *others):
        tried.append((network.width, network.sums))
        return learned(self, run, network, *others)

    monkeypatch.setattr("metaheac_jax.methods.learned_prior._WIDTHS", (4, 1, 2))
    monkeypatch.setattr(LearnedPrior, "_learned", noted)
    general = mh.fit(DATA, "learned-prior", campaigns=TRAIN)
    assert tried[:2] == [(4, False), (4, True)]
    aucs_of = [judged.auc for judged in general.judgements]
    assert [width for width, _ in tried[2:4]] == [1, 2]
    assert tried[2][1] == tried[3][1] == (aucs_of[1] > aucs_of[0])
    *linear, products, last = tried  # products are added to the best of the others
    assert products == linear[int(np.argmax(aucs_of[:4]))]
    assert len(general.held_out) == 3
    assert [judged.step for judged in general.judgements] == [0, 1, 2, 3, 4]
    best = int(np.argmax(aucs_of))
    assert last == tried[best]  # learned from the held-out campaigns too
    assert general.state["table"].shape[1] == tried[best][0]
    assert bool(general.state["features"]["sums"]) == tried[best][1]
    assert ("directions" in general.state["network"]) == (best == 4)


def test_held_out_campaigns_teach_the_prior_once_they_have_chosen_the_features():
    general = mh.fit(DATA, METHOD.changed(sums=None), campaigns=TRAIN)
    chosen = METHOD.changed(sums=bool(general.state["features"]["sums"]))
    same = mh.fit(DATA, chosen, campaigns=TRAIN)
    assert [len(own.held_out) for own in (general, same)] == [3, 0]
    jax.tree.map(np.testing.assert_array_equal, general.state, same.state)
    state = mh.fit(DATA, METHOD.changed(sums=None, num_directions=2), campaigns=TRAIN).state
    assert len(state["prior"]["rows"]) == len(TRAIN)
    assert "directions" in state["network"]


def test_products_tell_what_only_combinations_of_values_tell(monkeypatch):
    rng, start = np.random.default_rng(3), DATA.vocabulary.offsets[1]
    traits = np.column_stack([DATA.user_rows[:, 0], DATA.user_rows[:, 1] >= start + 2]) - [0.5, 0.5]
    taste = rng.normal(size=(len(DATA.campaign_ids), 3)) * [2, 2, 12]

    def converts(stage):
        own = traits[stage.user]
        terms = np.column_stack([own, own.prod(axis=1)])
        odds = np.einsum("et,et->e", terms, taste[stage.campaign])
        return replace(stage, label=(rng.random(len(odds)) < expit(odds)).astype(np.float32))

    data = replace(DATA, stage1=converts(DATA.stage1), stage2=converts(DATA.stage2))
    found, first = [], []

    def noted(campaigns, groups, variances, **given):
        first.append(variances)
        return learn_prior(campaigns, groups, variances, **given)

    monkeypatch.setattr("metaheac_jax.methods.learned_prior.learn_prior", noted)
    for count in (0, 3):
        general = mh.fit(data, METHOD.changed(num_directions=count), campaigns=TRAIN)
        models = mh.customise(general, data, [data.campaign(c) for c in NEW])
        found.append(aucs(data, NEW, [model.score for model in models]).mean())
    directions, table = general.state["network"]["directions"], general.state["table"]
    longer = Offline(data, TRAIN, 0).lengthened(True).dataset
    along = factors_of(LinearHead(3), longer.layout, {}, table, longer.user_rows) @ directions
    np.testing.assert_allclose(along.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(along, rowvar=False), np.eye(3), atol=1e-2)
    features = general.state["features"]
    scales = features["deviation"][features["columns"] >= 3 * len(longer.schema.user)]
    assert len(scales) == 6
    assert first[-1][-6:].max() < first[-1][:-6].min() / 10  # products begin small
    assert np.ptp(scales) == 0
    assert found[1] > found[0] + 0.05


@pytest.mark.parametrize(("given", "gain", "kept"), [(None, 1, 1), (None, -1, 0), (2, -1, 1)])
def test_products_are_kept_if_held_out_campaigns_gain_or_if_they_are_asked_for(given, gain, kept):
    aucs = iter([0.6, 0.6 + gain / 10])
    judge = lambda _, step: Judgement(step, next(aucs), 0.5)  # noqa: E731
    run = Offline(DATA, TRAIN[:6], 0, judge=judge)
    state = METHOD.changed(num_directions=given).fit(run).state
    assert ("directions" in state["network"]) == kept


def test_attributes_alone_tell_campaigns_apart(general):
    online = Online(DATA, 0)
    own = [DATA.campaign(c) for c in NEW[:2]]
    same = replace(own[1], rows=own[0].rows)
    scores = [
        of(DATA.user_rows) for of in METHOD.general_scorers(online, general.state, [*own, same])
    ]
    np.testing.assert_array_equal(scores[0], scores[2])
    assert np.ptp(scores[0]) > 0


NOTHING = Examples(np.zeros((2, 2), np.float32), np.arange(2))
ROWS = np.array([[0, 4], [0, 5], [1, 4], [1, 5]])


def prior(rows=ROWS, correlation=(0.5, 0.0)):
    modes = np.array([[2.0, 0], [2, 0], [-2, 0], [-2, 0]])
    learned = Learned(Gaussian(np.zeros(2), np.diag([1.0, 9])), modes)
    found = Prior.learned(learned, [NOTHING] * 4, rows, 9)
    among = (
        1.15 * np.eye(4) + 0.5 * (rows[:, :1] == rows[:, 0]) * (1 - np.eye(4)) * (rows < 9)[:, :1]
    )
    inverse = np.linalg.inv(among)
    return found._replace(correlation=np.array(correlation), inverse=inverse, pull=inverse @ modes)


def test_the_mean_moves_to_campaigns_with_the_same_attribute():
    found = [prior().of(np.array([value, 9]), num_rows=9) for value in (0, 1, 9)]
    # Two campaigns of variance 1 + .15 and covariance .5, each with covariance .5 to the new one.
    assert found[0].mean[0] == pytest.approx(2 * 2 * 0.5 / 1.65)
    assert found[1].mean[0] == -found[0].mean[0]
    left = 1 - 2 * 0.5**2 / 1.65
    np.testing.assert_allclose(found[0].covariance, left * np.diag([1.0, 9]))
    for own, expected in zip(found[2], Gaussian(np.zeros(2), np.diag([1.0, 9])), strict=True):
        np.testing.assert_allclose(own, expected)


def test_unknown_attributes_are_not_the_same():
    unknown = prior(np.full((4, 2), 9))
    np.testing.assert_array_equal(unknown.of(np.array([9, 9]), num_rows=9).mean, 0)


def test_correlations_are_those_of_the_attributes_that_matter():
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 5, (60, 2))
    shared = (kinds[:, None] == kinds).transpose(2, 0, 1)
    own = rng.normal(size=(60, 8))
    alike = np.sqrt(0.6) * rng.normal(size=(5, 8))[kinds[:, 1]] + np.sqrt(0.4) * own
    mean = np.ones(8)
    for modes, least, most in ((mean + alike, 0.3, 0.5), (mean + own, 0.0, 0.1)):
        campaigns = []
        for weights in modes:
            x = rng.normal(size=(5000, 8)).astype(np.float32)
            label = (rng.random(5000) < expit(x @ weights)).astype(np.float32)
            campaigns.append(Examples(x, label))
        learned = Learned(Gaussian(mean, np.eye(8)), modes)
        chosen = choose_correlations(shared, learned, campaigns)
        assert chosen[0] <= 0.1
        assert least <= chosen[1] <= most
