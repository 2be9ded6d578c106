"""Where campaigns lie, against one seed at a time; and the figures drawn from it."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from judged_runs import FirstTwo
from toy import dataset

from experiments.comparison import campaign_space as space
from experiments.comparison import figures
from experiments.comparison.curves import curve_campaign
from metaheac_jax.model import Weights, initialise
from metaheac_jax.networks.metaheac import MetaHeac
from metaheac_jax.table.pooling import user_fields


@pytest.fixture(scope="module")
def model():
    data = dataset(users=120, campaigns=8, per_campaign=40, pool=40)
    network = MetaHeac(3, 2, (6, 5), 4)
    sizes = {"num_rows": data.num_rows, "width": 4}
    return data, network, initialise(network, jax.random.key(0), data.layout, **sizes)


@pytest.fixture(scope="module")
def found(model):
    data, network, weights = model
    return space.campaign_space(data, np.array([1, 3, 4, 5, 6, 7]), network, weights)


def test_means_over_seeds_equal_one_seed_at_a_time(model, found):
    data, network, (params, table) = model
    slots = data.layout.user_slots
    vectors = lambda user: user_fields(table, user, slots).dense()  # noqa: E731
    apply = jax.jit(lambda user, of: network.apply(params, vectors(user), of))
    for row, campaign in enumerate([1, 3, 4, 5, 6, 7]):
        of = data.stage1.of(campaign)
        seeds = data.stage1.user[of][data.stage1.label[of] == 1]
        fields = table[data.campaign_rows[campaign]]
        outputs = [apply(data.user_rows[user][None], fields) for user in seeds]
        r = np.mean([output.representation[0] for output in outputs], axis=0)
        gate = np.mean([np.exp(output.critic_log_weights[0]) for output in outputs], axis=0)
        np.testing.assert_allclose(found["representation"][row], r, atol=2e-5)
        np.testing.assert_allclose(found["gate"][row], gate, atol=2e-5)
    assert found["campaign"] == data.campaign_ids[[1, 3, 4, 5, 6, 7]].tolist()


def test_text_ids_are_plain_data(model):
    data, network, weights = model
    names = [f"movie {number} é" for number in range(8)]
    named = replace(data, campaign_ids=np.array([name.encode() for name in names]))
    drawn = space.campaign_space(named, np.array([1, 3]), network, weights)
    assert json.loads(json.dumps(drawn))["campaign"] == [names[1], names[3]]
    judged = [{"campaign": name, "group": "small", "seeds": 5} for name in names]
    assert curve_campaign(named, judged[2:3]) == 2


def test_categories_are_raw_values(model, found, monkeypatch):
    data, network, weights = model
    assert found["category"] is None  # the toy's fields are others
    monkeypatch.setattr(space, "CATEGORIES", ("none", "category"))
    again = space.campaign_space(data, np.arange(8), network, weights)
    first = data.vocabulary.offsets[-1]
    assert again["category"] == [str(row - first) for row in data.campaign_rows[:, 1]]


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [None, 30])
def test_figures_of_the_space(tmp_path, monkeypatch, kinds):
    if kinds is None:  # once in earnest
        monkeypatch.setattr("sklearn.manifold.TSNE", FirstTwo)
    rng, count = np.random.default_rng(0), 24
    drawn = {
        "campaign": list(range(count)),
        "category": None if kinds is None else [str(i % kinds) for i in range(count)],
        "representation": rng.normal(size=(count, 6)).tolist(),
        "gate": rng.dirichlet(np.ones(3), count).tolist(),
    }
    run = {"metaheac": {"label": "MetaHeac", "campaigns": [], "space": drawn}}
    nothing = {"metaheac": {"label": "MetaHeac", "small": {}, "large": {}}}
    paths = figures.draw([run], nothing, tmp_path, "toy").values()
    names = ["auc.png", "auc_by_seeds.png", "space.png", "gate.png"]
    assert [path.name for path in paths] == names
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    few = {name: value and value[:4] for name, value in drawn.items()}
    run = {"metaheac": {"label": "MetaHeac", "campaigns": [], "space": few}}
    assert len(figures.draw([run], nothing, tmp_path, "toy")) == 2


def test_general_models_are_told_apart(model, found):
    data, network, weights = model
    other = Weights(weights.network, -weights.table)
    moved = space.campaign_space(data, np.array([1]), network, other)
    assert moved["gate"][0] != found["gate"][0]
