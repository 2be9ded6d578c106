"""GLMix: its weights are those of the fixed and random effects written out, and crosses help."""

from dataclasses import replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit
from toy import aucs, dataset

import metaheac_jax as mh
from experiments.baselines import mixed_models
from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.table.sparse import value_counts

DATA = dataset(users=300, campaigns=5, per_campaign=120)
FIXED, RANDOM = 7.0, 3.0


def test_fixed_effects_are_those_of_the_model_written_out():
    campaigns, num_rows = np.arange(4), DATA.num_rows
    examples = [campaign_examples(DATA, DATA.campaign(c)) for c in campaigns]
    each = [value_counts(DATA.layout, own.ids.user, num_rows).toarray() for own in examples]
    values = np.zeros((5, num_rows + 1))  # a constant, and every table row that a campaign has
    values[:, -1] = 1
    values[np.arange(5)[:, None], DATA.campaign_rows] = 1
    sizes = (num_rows + 1, num_rows), (4, num_rows)
    cut = sizes[0][0] * sizes[0][1]

    def loss(given):
        bias, rest = given[:4], given[4:]
        fixed, random = rest[:cut].reshape(sizes[0]), rest[cut:].reshape(sizes[1])
        total = FIXED / 2 * np.sum(fixed**2) + RANDOM / 2 * np.sum(random**2)
        slopes = [np.zeros(4), FIXED * fixed, RANDOM * random]
        for c, (own, counts) in enumerate(zip(examples, each, strict=True)):
            odds = counts @ (values[c] @ fixed + random[c]) + bias[c]
            total += np.sum(np.logaddexp(0, odds) - own.label * odds)
            error = expit(odds) - own.label
            slopes[0][c] = error.sum()
            slopes[1] += np.outer(values[c], counts.T @ error)
            slopes[2][c] += counts.T @ error
        return total, np.concatenate([own.ravel() for own in slopes])

    start = np.zeros(4 + cut + 4 * num_rows)
    options = {"maxiter": 2000, "maxfun": 10**5, "ftol": 1e-15, "gtol": 1e-9}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    expected = values[4] @ found[4 : 4 + cut].reshape(sizes[0])
    state = mixed_models._fit(DATA, campaigns, FIXED, RANDOM)
    new = mixed_models._values(DATA, DATA.campaign_rows[4:])[0]
    actual = new @ np.asarray(state["values"]).T @ np.asarray(state["effects"])
    np.testing.assert_allclose(actual, expected, atol=1e-3)
    assert np.ptp(expected) > 0.1


def test_a_new_campaign_has_the_tastes_of_its_attributes():
    """Users of one gender are the seeds, which depends on the first attribute of the campaign."""
    data = dataset(users=400, campaigns=24, per_campaign=80)
    first = data.vocabulary.offsets[3]
    kind = (data.campaign_rows[:, 0] - first) % 2

    def told(stage):
        gender = data.user_rows[stage.user][:, 0] - data.vocabulary.offsets[0]
        rare = np.random.default_rng(0).random(len(gender)) < 0.2
        return replace(stage, label=((gender == kind[stage.campaign]) ^ rare).astype(np.int8))

    data = replace(data, stage1=told(data.stage1), stage2=told(data.stage2))
    general = mh.fit(data, "mixed-model", campaigns=np.arange(18))
    new = np.arange(18, 24)
    few = [own.pick(slice(0, 2)) for own in map(data.campaign, new.tolist())]
    few = [replace(own, labels=np.array([0, 1], np.int8)) for own in few]  # which tells nothing
    models = [model.score for model in mh.customise(general, data, few)]
    assert aucs(data, new, models).mean() > 0.7
