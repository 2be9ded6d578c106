import os
import shutil
import tempfile

# Set before jax is imported, for the workers and all other processes that a session starts: tests
# need the same programs many times, and each is compiled once.
COMPILED = "JAX_COMPILATION_CACHE_DIR"
OWN = None if COMPILED in os.environ else tempfile.mkdtemp(prefix="metaheac-tests-")
if OWN:
    os.environ |= {COMPILED: OWN, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

# Numpy's products are small here, and the workers of a session share the cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402
from writers import Writers  # noqa: E402

from metaheac_jax.backend import CPU_OPTIONS  # noqa: E402

# A deadline, or a limit on the time to draw examples, would test the machine.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
# Nearly all of a test's time is compilation, and a compiled program runs once or twice.
jax.config.update("jax_disable_most_optimizations", True)
CPU_OPTIONS["xla_backend_optimization_level"] = 0
# These emitters need most of that time; later versions have no others.
if jax.__version_info__ < (0, 11):
    CPU_OPTIONS["xla_cpu_use_fusion_emitters"] = False


def pytest_unconfigure():
    if OWN:
        shutil.rmtree(OWN, ignore_errors=True)


@pytest.fixture(scope="session")
def writers():
    """Other processes that write."""
    made = Writers()
    yield made
    made.close()


@pytest.fixture
def x64():
    """Runs a test in float64, for closed forms and finite differences."""
    with jax.enable_x64(True):
        yield
