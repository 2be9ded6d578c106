"""Logistic regression by Newton's method: its minimum, and the derivative of that."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from metaheac_jax.solvers.newton import Regression, newton


def solve_plain(f, offset, label, weight, num_steps=8, **given):
    """Under a prior of unit variance, and of variance 100 for the intercept."""
    precision = jnp.ones(f.shape[1]).at[-1].set(0.01)
    prior = {"mean": jnp.zeros_like(precision), "precision": precision} | given
    return newton(Regression(f, offset, label, weight, **prior), num_steps=num_steps)


solve = jax.jit(solve_plain, static_argnames="num_steps")


def examples(count=80, factors=5, *, scale=1.0, seed=0):
    """Factors with an intercept, offsets, labels and weights, in float64."""
    rng = np.random.default_rng(seed)
    f = np.column_stack([scale * rng.normal(size=(count, factors - 1)), np.ones(count)])
    offset = rng.normal(size=count) - 1
    label = (rng.random(count) < expit(offset + f @ rng.normal(size=factors))).astype(float)
    return f, offset, label, np.ones(count)


def loss(head, f, offset, label, weight):
    odds = offset + f @ head
    penalty = np.append(np.ones(len(head) - 1), 0.01)
    return np.sum(weight * (np.logaddexp(0, odds) - label * odds)) + np.sum(penalty * head**2) / 2


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("shift", [(-12.0, -12.0), (0.0, 0.0), (12.0, 12.0), (-9.0, 9.0)])
def test_it_is_the_minimum_that_scipy_finds(scale, shift):
    """Also from offsets that are far off, on both sides, where whole steps would diverge."""
    f, offset, label, weight = examples(scale=scale)
    offset = offset + np.where(f[:, 0] > 0, *shift)
    found = minimize(loss, np.zeros(5), (f, offset, label, weight), method="BFGS", tol=1e-9)
    with jax.enable_x64(True):
        head = solve(f, offset, label, weight, num_steps=20)
    np.testing.assert_allclose(head, found.x, atol=1e-4)


@pytest.mark.parametrize(("scale", "shift"), [(100.0, 20.0), (30.0, 20.0), (3.0, 60.0)])
def test_no_further_step_raises_the_loss(scale, shift):
    """Beyond rounding; nor does the last step, to which all of these lead."""
    after = jax.jit(lambda steps, *given: solve_plain(*given, num_steps=steps))
    for seed in range(3):
        f, offset, label, weight = examples(count=64, factors=11, scale=scale, seed=seed)
        given = f, offset + shift * np.random.default_rng(seed).normal(size=64), label, weight
        before = loss(np.zeros(11), *given)
        with jax.enable_x64(True):
            heads = [np.asarray(after(steps, *given)) for steps in range(9)]
        for head in heads:
            lower = loss(head, *given)
            assert lower <= 1.001 * before
            before = lower


def test_a_step_whose_loss_is_no_number_is_not_taken():
    """The Hessian is that of the penalty alone, and what the step adds to log-odds is infinite."""
    f = np.array([[1e20, 1], [1e20, 1], [-1e20, 1]], np.float32)
    offset, label = np.array([200.0, 200.0, -200.0], np.float32), np.array([0.0, 0.0, 1.0])
    assert not solve(f, offset, label, np.ones(3), num_steps=1).any()


def test_padding_has_no_effect_and_no_examples_give_zeros():
    f, offset, label, weight = examples()
    padded = (np.pad(a, [(0, 9)] + [(0, 0)] * (a.ndim - 1)) for a in (f, offset, label, weight))
    f_padded, *others = padded
    f_padded[80:] = 100.0  # whatever padding holds
    expected = solve(f, offset, label, weight)
    np.testing.assert_allclose(solve(f_padded, *others), expected, atol=1e-5)
    assert not solve(f, offset, label, 0 * weight).any()


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_examples_of_one_label_have_a_finite_head(label):
    f, offset, _, weight = examples()
    head = np.asarray(solve(f, offset, np.full(80, label), weight, num_steps=20))
    assert np.isfinite(head).all()
    assert (head[-1] > 0) == label


def test_the_derivative_is_that_of_the_minimum():
    """Against finite differences, by factors and by offsets, in float64."""
    f, offset, label, weight = examples(count=30, factors=4)
    towards = np.random.default_rng(1).normal(size=4)

    def along(f, offset):
        return towards @ solve_plain(f, offset, label, weight, num_steps=12)

    with jax.enable_x64(True):
        value = jax.jit(along)
        by_f, by_offset = jax.jit(jax.grad(along, (0, 1)))(f, offset)
        for place in [(0, 0), (7, 2), (29, 1)]:
            step = np.zeros_like(f)
            step[place] = 1e-5
            expected = (value(f + step, offset) - value(f - step, offset)) / 2e-5
            np.testing.assert_allclose(by_f[place], expected, rtol=1e-5)
        step = 1e-5 * (np.arange(30) == 11)
        expected = (value(f, offset + step) - value(f, offset - step)) / 2e-5
        np.testing.assert_allclose(by_offset[11], expected, rtol=1e-5)


def dense_prior(size=5, seed=3):
    """A mean, and a precision with correlations."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    return {"mean": rng.normal(size=size), "precision": root @ root.T + np.eye(size)}


def test_without_examples_the_prior_is_quadratic_and_its_mean_the_solution():
    """One Newton step solves a quadratic exactly, from wherever it starts."""
    f, offset, label, weight = examples()
    prior = dense_prior()
    with jax.enable_x64(True):
        given = Regression(f, offset, label, 0 * weight, **prior)
        np.testing.assert_allclose(newton(given, num_steps=1), prior["mean"], rtol=1e-12)
        start = np.arange(5.0)
        direction = start - prior["mean"]
        np.testing.assert_allclose(given.best_along(direction, start), prior["mean"], atol=1e-12)


@pytest.mark.parametrize("tolerance", [None, 1e-8])
def test_the_gradient_at_the_solution_is_zero(tolerance):
    """That of the objective, by automatic differentiation, with correlated weights."""
    prior = dense_prior()
    with jax.enable_x64(True):
        given = Regression(*examples(), **prior)
        found = newton(given, num_steps=12, tolerance=tolerance)
        gradient = jax.grad(given.objective)(found, jnp.zeros(5), 0.0)
        np.testing.assert_allclose(gradient, 0, atol=1e-9)
        assert np.abs(jax.grad(given.objective)(found + 0.01, jnp.zeros(5), 0.0)).max() > 0.01


def test_a_gradient_and_a_hessian_are_those_of_the_loss():
    with jax.enable_x64(True):
        given = Regression(*examples(), np.zeros(5), np.zeros(5))  # no prior
        at, zero = np.linspace(-1, 1, 5), np.zeros(5)
        gradient = jax.grad(given.objective)
        np.testing.assert_allclose(given.gradient(at), gradient(at, zero, 0.0), rtol=1e-10)
        hessian = jax.jacfwd(gradient)(at, zero, 0.0)
        np.testing.assert_allclose(given.hessian(at), hessian, rtol=1e-10)


def test_a_diagonal_precision_may_be_given_as_a_vector():
    given, mean, diagonal = examples(), np.linspace(-1, 1, 5), np.linspace(0.1, 2, 5)
    vector = solve(*given, mean=mean, precision=diagonal)
    np.testing.assert_allclose(vector, solve(*given, mean=mean, precision=np.diag(diagonal)), 1e-5)


def test_steps_end_at_the_tolerance():
    """A step that changes no weight by more is the last, so a loose tolerance ends early."""
    with jax.enable_x64(True):
        given = Regression(*examples(), **dense_prior())
        ends = {
            tolerance: newton(given, num_steps=30, tolerance=tolerance) for tolerance in (1e9, 0.0)
        }
        np.testing.assert_array_equal(ends[1e9], newton(given, num_steps=1))
        np.testing.assert_allclose(ends[0.0], newton(given, num_steps=30), rtol=1e-12)


def test_the_derivative_by_the_prior_is_that_of_the_minimum():
    """Against finite differences, by its mean and by its precision, in float64."""
    f, offset, label, weight = examples(count=30)
    prior, towards = dense_prior(), np.arange(1.0, 6.0)

    def along(mean, precision):
        given = Regression(f, offset, label, weight, mean, precision)
        return towards @ newton(given, num_steps=12)

    with jax.enable_x64(True):
        value, slopes = jax.jit(along), jax.jit(jax.grad(along, (0, 1)))(*prior.values())
        for number, place in [(0, (2,)), (1, (1, 3)), (1, (4, 4))]:
            step = [np.zeros_like(own) for own in prior.values()]
            step[number][place] = 1e-5
            ends = [
                value(*(own + sign * by for own, by in zip(prior.values(), step, strict=True)))
                for sign in (1, -1)
            ]
            expected = (ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose(slopes[number][place], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "scale"), [(200_000, 1.0), (50_000, 30.0)])
def test_factors_that_depend_on_each_other_have_a_finite_head(count, scale):
    """In float32, where rounding makes the Hessian of many examples indefinite."""
    rng = np.random.default_rng(0)
    f = scale * rng.normal(size=(count, 6)) @ rng.normal(size=(6, 40))
    f = np.column_stack([f, np.ones(count)]).astype(np.float32)
    label = (rng.random(count) < expit(f[:, 0] / scale - 2)).astype(np.float32)
    zero, one = np.zeros(count, np.float32), np.ones(count, np.float32)
    head = solve_plain(f, zero, label, one, num_steps=20)
    assert np.isfinite(head).all()
    before, after = (
        loss(h.astype(float), f.astype(float), zero, label, one)
        for h in (np.zeros(41), np.asarray(head))
    )
    assert after < 0.8 * before


def test_an_accelerator_computes_every_product_in_full_precision():
    """In the value and in the derivative."""
    f, offset, label, weight = examples()
    derivative = jax.grad(lambda f: solve_plain(f, offset, label, weight).sum())
    text = str(jax.make_jaxpr(derivative)(f))
    products = text.count(" dot_general[")
    assert products > 10
    assert text.count(" precision=(Precision.HIGHEST, Precision.HIGHEST)") == products
