"""Settings: their limits, their names, the presets, and how they are kept."""

import json

import pytest

from metaheac_jax.errors import InputError
from metaheac_jax.methods import (
    METHODS,
    OFFICIAL,
    PAPER,
    EnsembleConfig,
    MetaHeacConfig,
    configured,
    method_of,
)
from metaheac_jax.table.layout import Layout

#: The authors' program and the paper (section 4.1), where they differ.
DIFFERENT = {
    "width": (64, 16),
    "reduction": ("mean", "sum"),
    "inner_learning_rate": (0.0002, 0.001),
    "disjoint": (False, True),
    "offline_epochs": (1, 100),
    "offline_patience": (None, 8),
    "online_epochs": (2, 10),
    "online_patience": (None, 3),
}


def test_the_presets_are_those_of_the_program_and_of_the_paper():
    own, paper = OFFICIAL.named(), PAPER.named()
    assert {name: (own[name], paper[name]) for name in own if own[name] != paper[name]} == DIFFERENT
    shared = {name: own[name] for name in own if name not in DIFFERENT}
    assert shared == {
        "table_scale": 1.0,
        "outer_learning_rate": 0.001,
        "campaigns_per_step": 5,
        "batch_size": 512,
        "weight_decay": 0.0,
        "value_dropout": 0.0,
        "online_learning_rate": 0.001,
        "list_lengths": False,
        "num_experts": 8,
        "num_critics": 5,
    }


def test_a_preset_changes_what_a_method_has_from_the_paper_alone():
    assert configured("metaheac", official=True).config == OFFICIAL
    assert MetaHeacConfig(inner_learning_rate=0.0).official().inner_learning_rate == 0.0
    assert configured("metaheac").config == PAPER
    ensemble = configured("ensemble", official=True).config
    assert (ensemble.head.width, ensemble.head.offline_epochs) == (64, 1)
    assert ensemble.head.table_scale == EnsembleConfig().head.table_scale != OFFICIAL.table_scale
    assert configured("lr", official=True).config == configured("lr").config


def test_a_name_without_a_part_is_that_of_all_parts_and_one_with_a_part_wins():
    values = {"head.penalty": 3, "penalty": 7, "list_lengths": False}
    config = configured("ensemble", **values).config
    assert (config.head.penalty, config.lr.penalty) == (3, 7)
    assert not any(own.list_lengths for own in (config.head, config.prior, config.lr))
    assert config.head.width == 16
    assert "lr.penalty" in config
    assert "lr.width" not in config


@pytest.mark.parametrize("name", METHODS)
def test_settings_say_what_they_shape_and_what_may_change_in_a_training(name):
    """A class that gives a setting another default declares it anew, so it may forget this."""
    config = configured(name).config
    last = {own: own.rpartition(".")[2] for own in config.named()}
    of_network = ("width", "num_experts", "num_critics", "list_lengths")
    assert [*config.named("shapes")] == [own for own in last if last[own] in of_network]
    free = ("offline_epochs", "offline_patience")
    assert [*config.named("resumable")] == [own for own in last if last[own] in free]


@pytest.mark.parametrize("name", METHODS)
def test_plain_data_keep_a_config(name):
    config = configured(name).config
    assert type(config).of_plain(json.loads(json.dumps(config.plain()))) == config


@pytest.mark.parametrize(
    ("method", "change"),
    [
        ("metaheac", {"width": 0}),
        ("metaheac", {"width": 4.5}),
        ("metaheac", {"width": "16"}),
        ("metaheac", {"online_patience": 0}),
        ("metaheac", {"outer_learning_rate": float("inf")}),
        ("metaheac", {"weight_decay": True}),
        ("metaheac", {"value_dropout": 1.0}),
        ("metaheac", {"reduction": "max"}),
        ("metaheac", {"disjoint": 1}),
        ("solved-head", {"width": 1}),  # one column has the value weights
        ("solved-head", {"penalty": 0.0}),  # a regression may have no minimum
    ],
)
def test_a_value_out_of_range_is_refused(method, change):
    [name] = change
    with pytest.raises(InputError, match=f"^{method}: settings: {name}: expected"):
        configured(method, **change)


@pytest.mark.parametrize(
    ("method", "name", "near"),
    [
        ("metaheac", "wdth", "width"),
        ("lr", "penalti", "penalty"),
        ("ensemble", "value_dropuot", "head.value_dropout"),
    ],
)
def test_an_unknown_name_lists_close_ones(method, name, near):
    with pytest.raises(
        InputError, match=f"^{method}: settings: no '{name}'; did you mean .*{near}"
    ):
        configured(method, **{name: 1})


def test_unknown_methods_are_refused(general):
    with pytest.raises(InputError, match=r"unknown method 'heac'; choose from .*metaheac"):
        configured("heac")
    with pytest.raises(
        InputError, match=r"general model of 'heac': unknown method 'heac'; .* or import"
    ):
        method_of(general("heac", {}))
    with pytest.raises(InputError, match="settings: list_lengths, penalti, penalty: in the model"):
        method_of(general("lr", {"penalti": 3.0}))


@pytest.fixture
def general():
    """A stand-in for a general model."""
    from types import SimpleNamespace

    return lambda method, config: SimpleNamespace(method=method, config=config)


@pytest.mark.parametrize(("rate", "steps"), [(0.0, 0), (0.02, 1)])
def test_an_inner_step_of_no_length_is_left_out(monkeypatch, rate, steps):
    build = lambda loss, **options: options["inner_steps"]  # noqa: E731
    monkeypatch.setattr("metaheac_jax.methods.metaheac.build_meta_gradient", build)
    layout = Layout((1,), (), 3)
    assert configured("metaheac", inner_learning_rate=rate).gradient(layout) == steps
