import jax
import pytest

from metaheac_jax.backend import set_cpu_flags

# As the commands do, before jax initialises its backend.
set_cpu_flags()
# Nearly all of a test's time is compilation, and what is compiled runs once or twice.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64():
    """Runs a test in float64, for closed forms and finite differences."""
    with jax.enable_x64(True):
        yield
