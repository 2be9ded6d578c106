"""Raw reductions that broken versions of jaxlib compute wrongly, under the commands' flags."""

import os
import subprocess
import sys

import pytest

PRODUCT = """
for rows, width in ((128, 32), (1000, 32), (1024, 64), (2000, 4), (4096, 16)):
    x = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    got = jax.jit(lambda x: jnp.sum((x @ jnp.ones((x.shape[1],) * 2)) ** 2))(x)
    np.testing.assert_allclose(got, width * (x.sum(axis=1) ** 2).sum(), rtol=1e-5)
"""
ROWS = """
for dtype, rows in ((np.float64, 16_385), (np.float32, 32_769)):
    with jax.enable_x64(dtype == np.float64):
        x = np.random.default_rng(0).normal(size=(rows, 3)).astype(dtype)
        f = lambda row: jnp.sum((jnp.eye(3, dtype=dtype) @ row) ** 2)
        np.testing.assert_allclose(jax.jit(jax.vmap(f))(x), (x**2).sum(axis=1), rtol=1e-5)
"""
# They crash.
RANK_7 = """
u, v = np.random.default_rng(0).normal(size=(2, 3, 1, 2, 2, 8, 8, 8)).astype(np.float32)
got = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(u, v)
np.testing.assert_allclose(got, (u * v).sum(axis=3), rtol=1e-5, atol=1e-5)
"""
RANK_8 = """
u = np.ones((10, 4, 6, 1, 1, 1, 1, 1), np.float32)
v = np.ones((10, 4, 6, 9, 9, 9, 9, 9), np.float32)
got = jax.jit(lambda a, b: jnp.log(jnp.maximum(jnp.sum(a * b, axis=2), 1e-16)))(u, v)
np.testing.assert_allclose(got, np.full(got.shape, np.log(6)), rtol=1e-5)
"""


def succeeds(program, *, flags):
    """Whether a program exits with 0 in a process of its own, with the commands' flags or none."""
    begin = "import jax, jax.numpy as jnp, numpy as np\nfrom metaheac_jax.backend import *\n"
    begin += "set_cpu_flags()\n" if flags else ""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", begin + program]
    return not subprocess.run(words, env=environment, capture_output=True, timeout=120).returncode


@pytest.mark.slow
@pytest.mark.parametrize("program", [PRODUCT, ROWS, RANK_7, RANK_8])
def test_raw_cases_are_right_with_the_commands_flags(program):
    assert succeeds(program, flags=True)


@pytest.mark.slow
def test_the_check_agrees_with_the_raw_cases():
    """Without flags, whatever this version of jaxlib does."""
    found = succeeds("check_backend()", flags=False)
    assert found == (succeeds(PRODUCT, flags=False) and succeeds(ROWS, flags=False))


@pytest.mark.slow
@pytest.mark.parametrize("program", [ROWS, RANK_7, RANK_8])
def test_faults_of_excluded_versions_are_absent_without_flags(program):
    """As for a user of the library, on the versions that pyproject.toml admits."""
    assert succeeds(program, flags=False)
