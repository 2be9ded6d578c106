"""The baselines keep the contract of methods, and are registered."""

import pytest
from method_contract import MethodContract
from toy import tiny

from experiments.baselines import METHODS
from metaheac_jax.methods import configured

#: They run in ``methods/test_contract.py``.
LIBRARY = (
    *("lr", "mlp-pretraining", "without-meta", "metaheac", "solved-head", "ensemble"),
    "learned-prior",
)
NAMES = [name for name in METHODS if name not in LIBRARY and not name.endswith("-lengths")]
#: The contract's campaigns are too few to hold some out, as these methods always do.
NAMES = [name for name in NAMES if not tiny(name, offline_patience=None).holds_out]
NAMES.remove("pooled-trees-all")  # what it learns depends on the campaigns beside it


@pytest.fixture(scope="class", params=NAMES)
def name(request):
    return request.param


@pytest.mark.slow
class TestContract(MethodContract):
    """The baselines."""


def test_every_method_has_its_name_and_a_label_of_its_own():
    assert all(configured(name).name == name for name in METHODS)
    own = [name for name, kind in METHODS.items() if "test_" not in kind.__module__]
    assert len({configured(name).label for name in own}) == len(own) > 20


@pytest.mark.parametrize(
    ("name", "experts", "critics"), [("metaheac", 8, 5), ("without-hc", 8, 1), ("without-he", 1, 5)]
)
def test_an_ablation_has_its_experts_and_critics(name, experts, critics):
    network = configured(name).network
    assert (network.num_experts, network.num_critics) == (experts, critics)
