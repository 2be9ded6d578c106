"""What adapting is worth: the methods differ in what they say, and the table compares them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import dataset

from experiments.comparison import adapting
from experiments.comparison.adapting import (
    VARIANTS,
    learned_rates_gradient,
    method_named,
    rows_gradient,
)
from experiments.comparison.adapting_table import adapting_table
from experiments.comparison.results import Measured
from experiments.comparison.tuning import tuned_method
from metaheac_jax.data.list_lengths import with_lengths
from metaheac_jax.errors import InputError
from metaheac_jax.methods import METHODS, solved_heads
from metaheac_jax.methods.offline import campaign_sampler, untrained
from metaheac_jax.methods.stages import Run, Trained
from metaheac_jax.networks.metaheac import MetaHeac
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.settings import OFFICIAL, PAPER
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta import build_meta_gradient

SETTINGS = replace(
    PAPER,
    width=4,
    num_experts=2,
    num_critics=2,
    batch_size=16,
    campaigns_per_step=2,
    reduction="mean",
    inner_learning_rate=0.1,
    offline_epochs=1,
    offline_patience=None,
    online_epochs=1,
    online_patience=None,
)


NETWORK = MLP((8, 4))  # the inner step is the same for every network


@pytest.fixture(scope="module")
def run():
    data = with_lengths(dataset(users=300, campaigns=6, per_campaign=40))[0]
    return Run(data, np.arange(6), SETTINGS, seed=0)


@pytest.fixture
def drawn(run, monkeypatch):
    """Parameters over the rows of a step, the step's batches, and its table rows."""
    monkeypatch.setattr(adapting, "metaheac_network", lambda settings: NETWORK)
    weights = untrained(run, NETWORK, jax.random.key(0))
    touched, *batch = campaign_sampler(run)(0)
    table = weights.table.at[touched].get(mode="fill", fill_value=0)
    return {"network": weights.network, "table": table}, batch, touched


def gradient_of(run, **options):
    """The gradient of the program's own meta-step, with an inner step of these options."""
    loss = build_loss(NETWORK, run.dataset.layout, reduction="mean")
    return build_meta_gradient(loss, reduction="mean", select=select_rows, **options)


def equal(found, expected):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-7), found, expected
    )


def test_every_method_is_known_and_has_its_base():
    known = adapting.method_names()
    for variant in VARIANTS:
        assert method_named(variant.name, SETTINGS).name == variant.name
        assert variant.name in known
        assert variant.base is None or variant.base in {other.name for other in VARIANTS}
    assert set(METHODS) <= set(known)
    assert adapting.with_group(["lr", "adapting"]) == [
        "lr",
        *(variant.name for variant in VARIANTS),
    ]
    with pytest.raises(InputError, match="unknown method 'nobody'"):
        method_named("nobody", SETTINGS)


@pytest.mark.slow
def test_an_inner_step_on_campaign_rows_moves_these_rows_alone(run, drawn):
    """As an inner step on the table does whose rate is 0 on the other rows."""
    params, (support, query, own), touched = drawn
    dataset = run.dataset
    first = dataset.vocabulary.offsets[len(dataset.schema.user)]
    # The rates are those of one campaign's rows, so campaigns are compared one by one.
    total = jax.tree.map(jnp.zeros_like, params)
    for c in range(SETTINGS.campaigns_per_step):
        one = jax.tree.map(lambda leaf, c=c: leaf[c : c + 1], (support, query, own))
        is_campaign = (touched[np.minimum(own[c], len(touched) - 1)] >= first) & (
            own[c] < len(touched)
        )
        rate = 0.1 * jnp.asarray(is_campaign, jnp.float32)[:, None]
        masked = gradient_of(
            run,
            inner_learning_rate={"network": 0.0, "table": rate},
            adapt={"network": False, "table": True},
        )
        total = jax.tree.map(jnp.add, total, jax.jit(masked)(params, *one)[0])
    expected = jax.tree.map(lambda leaf: leaf / SETTINGS.campaigns_per_step, total)
    found, info = jax.jit(rows_gradient(run))(params, support, query, own)
    equal(found, expected)
    plain, before = jax.jit(gradient_of(run, inner_steps=0, inner_learning_rate=0.1))(
        params, support, query, own
    )
    assert not np.allclose(info.query_loss, before.query_loss)
    assert not np.allclose(found["table"], plain["table"])


@pytest.mark.slow
def test_learned_rates_begin_at_alpha_and_are_learned(run, drawn):
    params, (support, query, own), _ = drawn
    logs = jax.tree.map(lambda _: jnp.log(0.1), {"network": params["network"], "table": 0})
    inside = {"inside": params["network"], "log_rates": logs}
    found, _ = jax.jit(learned_rates_gradient(run, 2))(
        params | {"network": inside}, support, query, own
    )
    expected, _ = jax.jit(gradient_of(run, inner_learning_rate=0.1, inner_steps=2))(
        params, support, query, own
    )
    equal(found["network"]["inside"], expected["network"])
    equal(found["table"], expected["table"])
    rates = np.stack(jax.tree.leaves(found["network"]["log_rates"]))
    assert (rates != 0).all()


@pytest.mark.long
@pytest.mark.parametrize("name", ["learned-rates", "learned-rates-5"])
def test_learned_rates_are_not_decayed(name):
    """Decay would draw their logarithms to zero, whatever was chosen for other methods."""
    decayed = {"origin": "toy", "methods": {"metaheac-lengths": {"chosen": {"weight_decay": 0.1}}}}
    assert tuned_method("metaheac-lengths", PAPER, decayed).settings.weight_decay == 0.1
    settings = replace(PAPER, weight_decay=0.1)
    assert tuned_method(name, settings, decayed).settings.weight_decay == 0


@pytest.mark.parametrize("name", ["adapt-heads", "learned-rates", "seeds-step"])
def test_methods_train_and_are_customised(run, name):
    data = dataset(users=300, campaigns=6, per_campaign=40)
    method = method_named(name, SETTINGS)
    general = method.fit(data, campaigns=np.arange(5), seed=0)
    (model,) = method.customise(general, data, [data.campaign(5)])
    assert np.isfinite(model.score(data.user_rows[:20])).all()


def test_the_table_compares_each_method_with_its_base():
    def measured(*means):
        return {
            group: {
                of: Measured(tuple(mean + place for mean in means)) for of in ("auc", "auc_before")
            }
            for place, group in ((0.0, "small"), (0.1, "large"))
        }

    values = {
        "alpha-0-lengths": measured(0.6, 0.61, 0.62, 0.6),
        "seeds": measured(0.7, 0.712, 0.721, 0.702),
        "learned-rates": measured(0.5, 0.5, 0.5, 0.5),
    }
    labels = {name: name.upper() for name in values}
    settings = {"alpha-0-lengths": {"value_dropout": 0.5, "inner_learning_rate": 0.0}}
    settings |= {"seeds": {"value_dropout": 0.7, "reduction": "sum"}, "learned-rates": {}}
    settings["alpha-0-lengths"]["reduction"] = "mean"
    [table] = adapting_table(values, labels, settings, {"seeds": 12.34}, 0.0)
    first, learned, seeds = table.rows
    assert first[:5] == ["ALPHA-0-LENGTHS", "task batches", "-", "0.6075", "-"]
    assert learned[1] == "learned rates"
    # Not the inner step's rate.
    differs = "seed features; value_dropout 0.7 for 0.5; reduction sum for mean"
    assert seeds[:3] == ["SEEDS", differs, "ALPHA-0-LENGTHS"]
    assert seeds[3:5] == ["0.7087", "+0.1012 ±0.0005*"]
    assert seeds[-1] == "12.3"
    assert first[-1] == "-"
    assert not adapting_table({"seeds": values["seeds"]}, labels, settings, {}, 0.0)


@pytest.mark.slow
def test_an_inner_step_on_heads_leaves_experts_and_table(run, monkeypatch):
    network = MetaHeac(2, 2, (4, 4), 4)
    monkeypatch.setattr(adapting, "metaheac_network", lambda settings: network)
    weights = untrained(run, network, jax.random.key(0))
    touched, *batch = campaign_sampler(run)(0)
    table = weights.table.at[touched].get(mode="fill", fill_value=0)
    params = {"network": weights.network, "table": table}
    parts = {part: 0.0 if part == "expert" else 0.1 for part in weights.network["params"]}
    assert parts["expert"] == 0
    expected = build_meta_gradient(
        build_loss(network, run.dataset.layout),
        inner_learning_rate={"network": {"params": parts}, "table": 0.0},
        select=select_rows,
    )
    found, slope = (jax.jit(g)(params, *batch)[0] for g in (adapting.heads_gradient(run), expected))
    equal(found, slope)


def test_variants_have_the_rates_and_derivatives_of_their_names(monkeypatch):
    of = lambda name: method_named(name, SETTINGS).settings  # noqa: E731
    assert (of("seeds").inner_learning_rate, of("seeds-step").inner_learning_rate) == (0.0, 0.1)
    program = method_named("program-step", replace(SETTINGS, reduction="sum")).settings
    assert program.reduction == "mean"
    assert program.inner_learning_rate == OFFICIAL.inner_learning_rate
    asked = []
    monkeypatch.setattr(
        solved_heads, "solved_gradient", lambda _, *, first_order: asked.append(first_order)
    )
    monkeypatch.setattr(solved_heads, "train_on_campaigns", lambda *_, **__: Trained({}))
    data = dataset(users=120, campaigns=4, per_campaign=40, pool=20)
    for name in ("solved-constant", "solved-head"):
        method_named(name, SETTINGS).with_settings(offline_patience=None).fit(data)
    assert asked == [True, False]
