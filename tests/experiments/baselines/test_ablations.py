"""MetaHeac with one critic or one expert."""

import pytest

import experiments.baselines  # noqa: F401  registers the methods
from metaheac_jax.methods import configured


@pytest.mark.parametrize(
    ("name", "experts", "critics"), [("metaheac", 8, 5), ("without-hc", 8, 1), ("without-he", 1, 5)]
)
def test_the_network_has_its_experts_and_critics(name, experts, critics):
    network = configured(name).network
    assert (network.num_experts, network.num_critics) == (experts, critics)
