import pytest

from metaheac_jax.methods import METHODS


@pytest.fixture(scope="module", autouse=True)
def only_own_methods():
    """Methods that a module's tests register are gone after it."""
    known = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(known)
