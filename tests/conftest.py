import jax
import pytest


@pytest.fixture
def x64():
    """Runs a test in float64, for closed forms and finite differences."""
    with jax.enable_x64(True):
        yield
