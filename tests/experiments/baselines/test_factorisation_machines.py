"""Products of factors against sums over pairs of fields."""

from itertools import combinations

import numpy as np

from experiments.baselines.factorisation_machines import FieldAware, Machine

RNG = np.random.default_rng(0)
M, D = 5, 3


def test_a_machine_adds_the_inner_products_of_all_pairs():
    factors = RNG.normal(size=(4, M, D)).astype(np.float32)
    expected = sum(factors[:, i] * factors[:, j] for i, j in combinations(range(M), 2)).sum(axis=-1)
    np.testing.assert_allclose(Machine().products(factors), expected, rtol=1e-4)


def test_a_field_has_factors_of_its_own_for_each_other_field():
    """Two entries of a row are left over."""
    factors = RNG.normal(size=(4, M, M * D + 2)).astype(np.float32)
    each = factors[..., : M * D].reshape(4, M, M, D)
    expected = sum(
        (each[:, i, j] * each[:, j, i]).sum(axis=-1) for i, j in combinations(range(M), 2)
    )
    np.testing.assert_allclose(FieldAware().products(factors), expected, rtol=1e-4, atol=1e-5)
