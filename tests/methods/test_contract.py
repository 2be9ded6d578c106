"""Every method of the library keeps the contract."""

import pytest
from method_contract import MethodContract

from metaheac_jax.methods import METHODS

QUICK = ("lr", "metaheac", "ensemble")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name not in QUICK]


@pytest.fixture(scope="class", params=[*QUICK, *SLOW])
def name(request):
    return request.param


class TestContract(MethodContract):
    """The methods of the library."""
