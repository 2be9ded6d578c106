"""The methods of a comparison by name, and where their settings come from."""

import json

import pytest

from experiments.comparison import methods
from experiments.comparison.adapting import VARIANTS
from experiments.comparison.methods import CHOSEN, build_methods, method_names, names_of
from metaheac_jax.errors import InputError
from metaheac_jax.methods import METHODS, OFFICIAL, configured


@pytest.fixture
def chosen(monkeypatch):
    """Replaces the stored choices of a world ``toy``."""

    def put(**of):
        found = {name.replace("_", "-"): own for name, own in of.items()}
        monkeypatch.setattr(methods, "_read", lambda: {"toy": found})

    return put


def config_of(name, **options):
    [method] = build_methods([name], world="toy", **options)
    return method.config


def test_groups_stand_for_their_methods():
    adapting = tuple(variant.name for variant in VARIANTS)
    assert names_of(["lr", "adapting", "lr"]) == ("lr", *adapting)
    assert method_names() == list(METHODS)
    assert set(names_of(["all"])) | set(adapting) == set(METHODS)
    assert "adapt-heads" not in names_of(["all"])
    with pytest.raises(InputError, match=r"--methods: unknown 'xgboost'; choose from .*lr, "):
        names_of(["all", "xgboost"])


def test_the_stored_choices_are_of_known_methods_and_settings():
    worlds = json.loads(CHOSEN.read_text())
    assert set(worlds) == {"tencent", "ml-1m-exposed", "ml-1m-pool", "ml-100k-exposed"}
    for world, of in worlds.items():
        for name, own in of.items():
            [method] = build_methods([name], world=world)
            assert {setting: method.config[setting] for setting in own} == own


def test_a_setting_is_the_presets_then_what_was_chosen_then_what_is_set(chosen):
    chosen(lr={"penalty": 5.0})
    assert config_of("lr").penalty == 5.0
    assert config_of("lr", changes=["penalty=2", "width=7"]).penalty == 2  # LR has no width
    assert config_of("metaheac", changes=["width=7"]).width == 7
    assert config_of("metaheac", online_epochs=33).online_epochs == 33
    changes = ["online_epochs=4"]
    assert config_of("metaheac", online_epochs=33, changes=changes).online_epochs == 4
    [other] = build_methods(["lr"], world=None)
    assert other.config == configured("lr").config
    assert config_of("metaheac", preset="official") == OFFICIAL
    # What defines a method stays.
    assert config_of("without-hc", changes=["num_critics=4"]).num_critics == 1
    # MetaHeac does not have this setting.
    assert config_of("prior", changes=["patience=3"]).patience == 3


def test_a_method_takes_what_was_chosen_for_the_one_that_it_differs_from(chosen):
    chosen(metaheac_lengths={"table_scale": 0.2, "weight_decay": 0.1})
    assert config_of("adapt-heads").table_scale == 0.2
    # Decay would draw learned rates' logarithms to zero, so it is no setting of theirs to choose.
    for name in ("learned-rates", "learned-rates-5"):
        assert (config_of(name).table_scale, config_of(name).weight_decay) == (0.2, 0.0)
    chosen(solved_head={"table_scale": 0.3})
    assert config_of("solved-constant").table_scale == 0.3
    assert config_of("metaheac") == configured("metaheac").config


def test_values_reach_the_member_of_an_ensemble_that_tunes_them(chosen):
    chosen(without_meta_lengths={"value_dropout": 0.9, "table_scale": 0.2})
    default, config = configured("ensemble").config, config_of("ensemble")
    assert (config.network.value_dropout, config.network.table_scale) == (0.9, 0.2)
    assert config.head == default.head
    changed = config_of("ensemble", changes=["value_dropout=0.4", "penalty=7", "head.width=8"])
    assert (changed.network.value_dropout, changed.head.value_dropout) == (0.4, 0.5)
    assert (changed.head.penalty, changed.lr.penalty) == (7, default.lr.penalty)
    assert (changed.head.width, changed.network.width) == (8, 16)


@pytest.mark.parametrize("change", ["wide=8", "width", "width=0"])
def test_a_change_that_no_method_can_have_is_refused(change):
    with pytest.raises(InputError, match=r"--set: .*width"):
        build_methods(["lr"], changes=[change])
