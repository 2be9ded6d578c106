"""Adapting heads: as adapting all with the other gradients zeroed; the rest stays as it is."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from toy import dataset, pool

from metaheac_jax.customise import heads
from metaheac_jax.customise.customiser import Customiser
from metaheac_jax.customise.heads import HeadCustomiser
from metaheac_jax.customise.score import PoolScorer
from metaheac_jax.data.batches import campaign_examples, gather
from metaheac_jax.data.reference_sets import with_reference
from metaheac_jax.errors import InputError
from metaheac_jax.model import initialise, with_own_parameters
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.networks.seed_features import SeedNetwork
from metaheac_jax.ranking import auc

DATA = dataset()
LAYOUT, ROWS = DATA.layout, DATA.num_rows
NETWORK = MLP(widths=(6, 5))
NETWORKS = {"mlp": NETWORK, "seed-aware": SeedNetwork(NETWORK)}


@dataclass(frozen=True)
class FirstLayerFrozen:
    """A network whose table and first layer get no gradient: what `HeadCustomiser` is to equal."""

    network: Any

    def init(self, *arguments):
        return self.network.init(*arguments)

    def apply(self, params, *inputs):
        later = set(flatten_dict(self.network.later_layers(params)))
        stop = jax.lax.stop_gradient
        leaves = flatten_dict(params).items()
        params = unflatten_dict({k: v if k in later else stop(v) for k, v in leaves})
        return self.network.apply(params, *stop(inputs))


def general_of(network):
    return initialise(network, jax.random.key(0), LAYOUT, num_rows=ROWS, width=4)


def campaign(name, c, count=300):
    of = DATA.stage1.of(c)
    examples = gather(DATA, np.arange(of.start, of.stop)[:count], DATA.campaign_rows[c], count)
    if name != "seed-aware":
        return examples
    examples = with_reference(examples, 40, ROWS)
    return examples.pick(examples.weight > 0)


@pytest.mark.slow
@pytest.mark.parametrize("patience", [None, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_adapting_all_with_the_other_gradients_zeroed(name, patience):
    network = NETWORKS[name]
    general = general_of(network)
    examples = [campaign(name, 2, 150), campaign(name, 0), campaign(name, 1, 70)]
    options = {"seed": 5, "epochs": 4, "patience": patience, "learning_rate": 0.01}
    heads = HeadCustomiser(network, LAYOUT, batch_size=64)(general, examples, **options)
    frozen = FirstLayerFrozen(network)
    whole = Customiser(frozen, LAYOUT, batch_size=64)(general, examples, **options)
    for own, all_ in zip(heads, whole, strict=True):
        assert own.rows.shape == (0,)
        assert own.values.shape == (0, 4)
        touched = all_.rows < ROWS
        np.testing.assert_array_equal(all_.values[touched], general.table[all_.rows[touched]])
        params = with_own_parameters(general.network, own.network)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=2e-5), params, all_.network)
    later = network.later_layers(general.network)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), heads[1].network, later)
    assert max(jax.tree.leaves(moved)) > 0.01


def test_only_the_later_layers_are_the_campaigns_own():
    (own,) = HeadCustomiser(NETWORK, LAYOUT)(general_of(NETWORK), [campaign("mlp", 0)])
    assert set(flatten_dict(own.network)) == set(
        flatten_dict(NETWORK.later_layers(general_of(NETWORK).network))
    )


def test_it_learns_the_campaign():
    general, (users, labels) = general_of(NETWORK), pool(DATA, 3)
    examples = [campaign_examples(DATA, DATA.campaign(3))]
    customise = HeadCustomiser(NETWORK, LAYOUT, batch_size=64)
    (own,) = customise(general, examples, learning_rate=0.02, epochs=30)
    score, rows = PoolScorer(NETWORK, LAYOUT), DATA.campaign_rows[3]
    before, after = (auc(score(general, each, rows, users), labels) for each in (None, own))
    assert after > before + 0.05


def test_the_first_layer_is_computed_of_every_chunk_of_examples(monkeypatch):
    customise = HeadCustomiser(NETWORK, LAYOUT, batch_size=64)
    general, examples = general_of(NETWORK), [campaign("mlp", 0, 150)]
    [whole] = customise(general, examples, learning_rate=0.05)
    monkeypatch.setattr(heads, "_CHUNK", 64)
    [in_chunks] = customise(general, examples, learning_rate=0.05)
    same = partial(np.testing.assert_allclose, rtol=0, atol=1e-6)
    jax.tree.map(same, in_chunks.network, whole.network)


def test_the_watcher_sees_every_step():
    seen = []
    customise = HeadCustomiser(NETWORK, LAYOUT, batch_size=64)

    def watch(step, models):
        [own] = models()
        seen.append((step, float(np.ravel(jax.tree.leaves(own.network)[0])[0])))

    customise(general_of(NETWORK), [campaign("mlp", 0, 150)], epochs=2, watch=watch)
    assert [step for step, _ in seen] == list(range(7))
    assert len({weight for _, weight in seen}) == 7


def test_no_campaigns_give_no_models_and_wrong_ones_are_refused():
    customise, general = HeadCustomiser(NETWORK, LAYOUT), general_of(NETWORK)
    assert customise(general, []) == []
    wrong = campaign("mlp", 0, 20)
    wrong.ids.user[3, 1] = -1
    with pytest.raises(InputError, match="campaign 0 of 1: the ids include -1"):
        customise(general, [wrong])


def test_precision_is_the_callers(x64):
    general = jax.tree.map(lambda a: a.astype("float64"), general_of(NETWORK))
    (own,) = HeadCustomiser(NETWORK, LAYOUT)(general, [campaign("mlp", 0, 40)], epochs=1)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(own.network)} == {"float64"}
