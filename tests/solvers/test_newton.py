"""Logistic regression by Newton's method: its minimum, and the derivative of that."""

import jax
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

from metaheac_jax.solvers.newton import solve_logistic

solve = jax.jit(solve_logistic, static_argnames="num_steps")


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
    after = jax.jit(lambda steps, *given: solve_logistic(*given, num_steps=steps))
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
        return towards @ solve_logistic(f, offset, label, weight, num_steps=12)

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


@pytest.mark.slow
@pytest.mark.parametrize(("count", "scale"), [(200_000, 1.0), (50_000, 30.0)])
def test_factors_that_depend_on_each_other_have_a_finite_head(count, scale):
    """In float32, where rounding makes the Hessian of many examples indefinite."""
    rng = np.random.default_rng(0)
    f = scale * rng.normal(size=(count, 6)) @ rng.normal(size=(6, 40))
    f = np.column_stack([f, np.ones(count)]).astype(np.float32)
    label = (rng.random(count) < expit(f[:, 0] / scale - 2)).astype(np.float32)
    zero, one = np.zeros(count, np.float32), np.ones(count, np.float32)
    head = solve_logistic(f, zero, label, one, num_steps=20)
    assert np.isfinite(head).all()
    before, after = (
        loss(h.astype(float), f.astype(float), zero, label, one)
        for h in (np.zeros(41), np.asarray(head))
    )
    assert after < 0.8 * before


def test_an_accelerator_computes_every_product_in_full_precision():
    """In the value and in the derivative."""
    f, offset, label, weight = examples()
    derivative = jax.grad(lambda f: solve_logistic(f, offset, label, weight).sum())
    text = str(jax.make_jaxpr(derivative)(f))
    products = text.count(" dot_general[")
    assert products > 10
    assert text.count(" precision=(Precision.HIGHEST, Precision.HIGHEST)") == products
