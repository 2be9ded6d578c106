"""Raw reductions that broken versions of jaxlib compute wrongly, with the options of `jit`."""

import os
import subprocess
import sys

import pytest

PRODUCT = """
for rows, width in ((128, 32), (1000, 32), (1024, 64), (2000, 4), (4096, 16)):
    x = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    got = jit(lambda x: jnp.sum((x @ jnp.ones((x.shape[1],) * 2)) ** 2))(x)
    np.testing.assert_allclose(got, width * (x.sum(axis=1) ** 2).sum(), rtol=1e-5)
"""
ROWS = """
for dtype, rows in ((np.float64, 16_385), (np.float32, 32_769)):
    with jax.enable_x64(dtype == np.float64):
        x = np.random.default_rng(0).normal(size=(rows, 3)).astype(dtype)
        f = lambda row: jnp.sum((jnp.eye(3, dtype=dtype) @ row) ** 2)
        np.testing.assert_allclose(jit(jax.vmap(f))(x), (x**2).sum(axis=1), rtol=1e-5)
"""
BATCHES = """
for shape in ((8, 64, 64), (5, 512, 64), (2, 1000, 40)):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    given = np.full((shape[0], shape[2], shape[2]), 3, np.float32)
    f = lambda x: jnp.sum((x @ jnp.full_like(given, 3)) * x, axis=-1)
    np.testing.assert_allclose(jit(f)(x), 3 * x.sum(axis=-1) ** 2, rtol=1e-4, atol=1e-3)
"""
# They crash.
RANK_7 = """
u, v = np.random.default_rng(0).normal(size=(2, 3, 1, 2, 2, 8, 8, 8)).astype(np.float32)
got = jit(lambda a, b: jnp.sum(a * b, axis=3))(u, v)
np.testing.assert_allclose(got, (u * v).sum(axis=3), rtol=1e-5, atol=1e-5)
"""
RANK_8 = """
u = np.ones((10, 4, 6, 1, 1, 1, 1, 1), np.float32)
v = np.ones((10, 4, 6, 9, 9, 9, 9, 9), np.float32)
got = jit(lambda a, b: jnp.log(jnp.maximum(jnp.sum(a * b, axis=2), 1e-16)))(u, v)
np.testing.assert_allclose(got, np.full(got.shape, np.log(6)), rtol=1e-5)
"""


def succeeds(program, begin="from metaheac_jax.backend import jit"):
    """Whether a program exits with 0 in a process of its own, without flags of XLA."""
    begin = f"import jax, jax.numpy as jnp, numpy as np\n{begin}\n"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", begin + program]
    return not subprocess.run(words, env=environment, capture_output=True, timeout=120).returncode


@pytest.mark.slow
@pytest.mark.parametrize("program", [PRODUCT, ROWS, BATCHES, RANK_7, RANK_8])
def test_raw_cases_are_right_as_the_package_compiles_them(program):
    assert succeeds(program)


@pytest.mark.slow
def test_the_check_agrees_with_the_raw_cases():
    """Without options, whatever this version of jaxlib does."""
    plain = "from jax import jit"
    found = succeeds("from metaheac_jax.backend import check_backend\ncheck_backend(jit)", plain)
    assert found == all(succeeds(own, plain) for own in (PRODUCT, ROWS, BATCHES))


@pytest.mark.slow
@pytest.mark.parametrize("program", [ROWS, RANK_7, RANK_8])
def test_faults_of_excluded_versions_are_absent_without_options(program):
    """As for a user of the library, on the versions that pyproject.toml admits."""
    assert succeeds(program, "from jax import jit")
