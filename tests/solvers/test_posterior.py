"""The posterior of a campaign and the learned prior, against plain float64 numpy."""

import numpy as np
import pytest
from scipy.special import expit
from threadpoolctl import threadpool_info, threadpool_limits

from metaheac_jax.solvers import posterior
from metaheac_jax.solvers.posterior import Examples, Gaussian, learn_prior, posterior_mode

GROUPS = np.array([0, 0, 1, 1])
FIRST = np.full(len(GROUPS), 0.02)  # variances


def campaigns(count=12, size=4, seed=0, examples=(60, 200)):
    """Campaigns whose weights come from one normal distribution: its mean, its root, examples."""
    rng = np.random.default_rng(seed)
    mean, root = rng.normal(size=size), 0.5 * rng.normal(size=(size, size))
    made = []
    for _ in range(count):
        x = rng.normal(size=(rng.integers(*examples), size)).astype(np.float32)
        odds = x @ (mean + root @ rng.normal(size=size)) - 1
        label = rng.random(len(x)) < 1 / (1 + np.exp(-odds))
        made.append(Examples(x, label.astype(np.float32)))
    return mean, root, made


def reference(examples, mean, covariance):
    """Mode and covariance by Newton's method with full steps."""
    size = len(mean)
    x = np.c_[examples.features.astype(float), np.ones(len(examples.label))]
    precision = np.zeros((size + 1, size + 1))
    precision[:size, :size], precision[size, size] = np.linalg.inv(covariance), 0.01
    mean = np.append(mean, 0.0)
    mode = mean.copy()
    for _ in range(50):
        p = expit(x @ mode)
        hessian = (x.T * (p * (1 - p))) @ x + precision
        mode = mode - np.linalg.solve(
            hessian, x.T @ (p - examples.label) + precision @ (mode - mean)
        )
    return mode, np.linalg.inv(hessian)


def reference_em(made, groups, strength, rounds=60):
    """EM whose every round finds all modes exactly."""
    size = len(groups)
    mean, covariance = np.zeros(size), 0.02 * np.eye(size)
    for _ in range(rounds):
        found = [reference(own, mean, covariance) for own in made]
        weights = np.array([mode[:size] for mode, _ in found])
        spread = np.mean([own[:size, :size] for _, own in found], axis=0)
        mean = weights.mean(axis=0)
        own = np.cov(weights.T, bias=True) + spread
        target = [np.diag(own)[groups == group].mean() for group in groups]
        covariance = (len(made) * own + strength * np.diag(target)) / (len(made) + strength)
    return mean, covariance


def test_a_mode_is_exact():
    _, root, [examples] = campaigns(1)
    prior = Gaussian(np.array([0.2, -0.3, 0.0, 0.1]), root @ root.T + np.eye(4))
    mode = posterior_mode(examples, prior)
    np.testing.assert_allclose(mode, reference(examples, *prior)[0], atol=1e-8)


def test_far_log_odds_and_a_single_label_have_a_mode():
    x = np.full((40, 4), 100, np.float32)
    for label in (np.zeros(40, np.float32), np.ones(40, np.float32)):
        mode = posterior_mode(Examples(x, label), Gaussian(np.full(4, 9.0), np.eye(4)))
        gradient = x.T.astype(float) @ (expit(x @ mode[:4] + mode[4]) - label)
        np.testing.assert_allclose(gradient + mode[:4] - 9, 0, atol=1e-4)


def test_em_finds_the_same_prior_as_exact_rounds():
    _, _, made = campaigns()
    learned = learn_prior(made, GROUPS, FIRST, strength=3, passes=40)
    mean, covariance = reference_em(made, GROUPS, 3)
    np.testing.assert_allclose(learned.prior.mean, mean, atol=1e-6)
    np.testing.assert_allclose(learned.prior.covariance, covariance, atol=1e-6)
    modes = [reference(own, *learned.prior)[0][:4] for own in made]
    np.testing.assert_allclose(learned.modes, modes, atol=1e-6)


@pytest.mark.parametrize("strength", [1e-3, 1e9])
def test_strength_draws_to_independent_weights_of_one_variance_per_group(strength):
    _, _, made = campaigns()
    _, covariance = learn_prior(made, GROUPS, FIRST, strength=strength, passes=8).prior
    off = covariance - np.diag(np.diag(covariance))
    alike = np.ptp(np.diag(covariance).reshape(2, 2), axis=1)
    if strength > 1:
        np.testing.assert_allclose(off, 0, atol=1e-6)
        np.testing.assert_allclose(alike, 0, atol=1e-6)
    else:
        assert np.abs(off).max() > 0.02
        assert alike.max() > 0.02


def test_few_passes_start_from_the_given_variances():
    first = np.where(GROUPS, 1e-5, 0.02)
    _, covariance = learn_prior(campaigns()[2], GROUPS, first, strength=3, passes=1).prior
    assert np.diag(covariance)[GROUPS == 1].max() < 1e-3
    assert np.diag(covariance)[GROUPS == 0].min() > 1e-2


def test_examples_are_padded_without_weight_and_have_an_intercept():
    prior = Gaussian(np.array([1.0, 2.0]), np.diag([0.5, 0.25]))
    given = Examples(np.full((65, 2), 3, np.float32), np.ones(65, np.int8)).regression(prior)
    known = np.arange(128) < 65
    np.testing.assert_array_equal(given.features, np.outer(known, [3, 3, 1]))
    np.testing.assert_array_equal(given.label, known)
    np.testing.assert_array_equal(given.weight, known)
    np.testing.assert_array_equal(given.mean, [1, 2, 0])
    np.testing.assert_allclose(given.precision, np.diag([2, 4, 0.01]))


def test_a_factorisation_has_one_thread(monkeypatch):
    seen, posteriors = set(), posterior._posteriors

    def noted(*given):
        blas = (own for own in threadpool_info() if own["user_api"] == "blas")
        seen.update(("scipy.libs" in own["filepath"], own["num_threads"]) for own in blas)
        return posteriors(*given)

    monkeypatch.setattr(posterior, "_posteriors", noted)
    with threadpool_limits(2, "blas"):
        learn_prior(campaigns()[2], GROUPS, FIRST, strength=4, passes=1)
    assert (True, 1) in seen  # scipy's is the one that JAX calls
    assert {threads for _, threads in seen} == {1}
