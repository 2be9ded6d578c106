import jax
import pytest
from writers import Writers

from metaheac_jax.backend import set_cpu_flags

# As the commands do, before jax initialises its backend.
set_cpu_flags()
# Nearly all of a test's time is compilation, and what is compiled runs once or twice.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def writers():
    """Other processes; as their command line a lock shows `-c fit 'a b' 'model?'`."""
    made = Writers("fit", "a b", "model\x07")
    yield made
    made.close()


@pytest.fixture
def x64():
    """Runs a test in float64, for closed forms and finite differences."""
    with jax.enable_x64(True):
        yield
