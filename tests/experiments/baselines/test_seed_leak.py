"""No example that seed-aware MetaHeac is fitted to is compared with itself."""

import numpy as np
import pytest
from toy import dataset, tiny, with_own_rows

import experiments.baselines  # noqa: F401  registers the methods
from metaheac_jax.customising.customiser import Customiser
from metaheac_jax.methods import customise, fit

DATA = with_own_rows(dataset(users=80, campaigns=6, per_campaign=40, pool=20))


@pytest.mark.slow
def test_online_an_example_is_fitted_or_compared_with_and_never_both(monkeypatch):
    """A seed that is compared with itself gives away its label."""
    fitted, call = [], Customiser.__call__

    def spy(self, weights, campaigns, **options):
        fitted.extend(campaigns)
        return call(self, weights, campaigns, **options)

    monkeypatch.setattr(Customiser, "__call__", spy)
    method = tiny("seed-aware", online_epochs=1)
    chosen = [DATA.campaign(c) for c in (0, 4)]
    customise(fit(DATA, method), DATA, chosen)
    for campaign, examples in zip(chosen, fitted, strict=True):
        users, reference = examples.ids.user[:, 0], examples.ids.reference[..., 0]
        label_of = dict(zip(campaign.users, campaign.labels, strict=True))
        compared = [set(side[side < DATA.num_rows]) for side in reference]
        # Every second seed, and every second non-seed, is compared with; the others are fitted.
        for label, side in zip((1, 0), compared, strict=True):
            assert {label_of[user] for user in side} == {label}
            assert len(side) == (campaign.labels == label).sum() // 2 > 2
        assert not set(users) & set.union(*compared)
        assert {*users, *set.union(*compared)} == set(campaign.users)
        assert len(users) == len(set(users))
        np.testing.assert_array_equal(examples.label, [label_of[user] for user in users])
