"""Networks that split behind their first layer: the same outputs; whose the parameters are."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from linear_network import LogisticRegression
from toy import dataset, drawn

from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.data.reference_sets import with_reference
from metaheac_jax.model import Weights, with_own_parameters
from metaheac_jax.networks.base import FirstLayer, SplitNetwork
from metaheac_jax.networks.metaheac import MetaHeac
from metaheac_jax.networks.mlp import MLP, OnFrozenFields
from metaheac_jax.networks.seed_features import SeedNetwork
from metaheac_jax.networks.solved_head import SolvedHead, UserTower

DATA = dataset()
LAYOUT, ROWS = DATA.layout, DATA.num_rows
HEAC = MetaHeac(num_experts=3, num_critics=2, widths=(6, 5), gate_width=4, mixture="mean")
SPLIT = {
    "metaheac": HEAC,
    "mlp": MLP(widths=(6, 5, 4)),
    "seed-aware": SeedNetwork(HEAC),
    "mlp, seed-aware": SeedNetwork(MLP(widths=(6, 5))),
    "solved head": SolvedHead(UserTower(widths=(6, 5), num_hidden=2, num_linear=3)),
}


def weights_of(network, seed=0):
    """Weights without a zero, so that every parameter has an effect."""
    fields = LAYOUT.num_user_fields, LAYOUT.num_campaign_fields
    params = drawn(network, *(np.zeros((1, number, 3)) for number in fields), seed=seed)
    rng = np.random.default_rng(seed)
    return Weights(params, jnp.asarray(rng.normal(size=(ROWS, 3)), jnp.float32))


def odds(output):
    return output.log_p - output.log_not_p


@pytest.mark.parametrize("name", SPLIT)
def test_the_later_layers_on_the_first_are_the_network(name):
    """Also with a campaign's own later layers."""
    network, examples = SPLIT[name], campaign_examples(DATA, DATA.campaign(2))
    assert isinstance(network, SplitNetwork)
    weights, own = weights_of(network), network.later_layers(weights_of(network, 7).network)
    user, campaign = LAYOUT.inputs(weights.table, examples.ids)

    @jax.jit
    def every(general, own, user):
        params, first = with_own_parameters(general, own), network.first_layer(general, user)
        return [
            odds(network.apply(p, u, campaign))
            for p, u in ((params, first), (params, user), (general, user))
        ]

    split, whole, general = every(weights.network, own, user)
    np.testing.assert_allclose(split, whole, rtol=0, atol=1e-6)
    assert np.abs(whole - general).max() > 0.01


def test_networks_of_different_classes_differ():
    """Compiled programs are kept by network, and a network is no array of a pytree."""
    assert SeedNetwork(UserTower()) != SolvedHead(UserTower())
    for network in SPLIT.values():
        assert jax.tree.leaves(network) == [network]
        assert len({network, copy.copy(network)}) == 1


@pytest.mark.parametrize("name", SPLIT)
def test_the_first_layer_reads_what_is_not_in_the_later_ones(name):
    network, examples = SPLIT[name], campaign_examples(DATA, DATA.campaign(2))
    weights = weights_of(network)
    user, _, reference = LAYOUT.inputs(weights.table, with_reference(examples, 50, ROWS).ids)
    inputs = (user, reference) if isinstance(network, SeedNetwork) else (user,)

    @jax.jit
    @jax.grad
    def gradient(params):
        return sum(map(jnp.sum, jax.tree.leaves(network.first_layer(params, *inputs))))

    leaves = flatten_dict(gradient(weights.network)).items()
    read = {path for path, leaf in leaves if leaf.any()}
    later = set(flatten_dict(network.later_layers(weights.network)))
    assert read == set(flatten_dict(weights.network)) - later
    assert read
    assert later


@pytest.mark.parametrize("name", ["seed-aware", "mlp, seed-aware"])
def test_with_a_reference_set_the_first_layer_has_the_seed_features(name):
    network, examples = SPLIT[name], campaign_examples(DATA, DATA.campaign(1))
    weights = weights_of(network)
    ids = with_reference(examples, 50, ROWS).ids
    user, campaign, reference = LAYOUT.inputs(weights.table, ids)

    @jax.jit
    def every(params):
        first = network.first_layer(params, user, reference)
        assert first.fields is None
        inputs = ((first, campaign), (user, campaign, reference), (user, campaign))
        return [odds(network.apply(params, *some)) for some in inputs]

    split, whole, other = every(weights.network)
    np.testing.assert_allclose(split, whole, rtol=0, atol=1e-6)
    assert np.abs(other - whole).max() > 1e-3  # the parameters' direction


@pytest.mark.parametrize("network", [LogisticRegression(), OnFrozenFields(MLP())])
def test_other_networks_do_not_split(network):
    assert not isinstance(network, SplitNetwork)


def test_a_first_layer_is_a_tree_whose_leaves_begin_with_the_users():
    for network in SPLIT.values():
        params, user = weights_of(network).network, jnp.ones((5, 3, 3))
        first = jax.eval_shape(network.first_layer, params, user)
        assert isinstance(first, FirstLayer)
        assert {leaf.shape[0] for leaf in jax.tree.leaves(first)} == {5}
