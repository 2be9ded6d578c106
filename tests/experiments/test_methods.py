"""The methods of a comparison by name, and where their settings come from."""

import json

import pytest

from experiments.comparison import methods
from experiments.comparison.methods import CHOSEN, build_methods
from metaheac_jax.errors import InputError
from metaheac_jax.methods import OFFICIAL, configured


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


def test_the_stored_choices_are_of_known_methods_and_settings():
    worlds = json.loads(CHOSEN.read_text())
    assert set(worlds) == {"tencent", "ml-1m", "ml-100k"}
    for world, of in worlds.items():
        for name, own in of.items():
            own = of[own] if isinstance(own, str) else own
            [method] = build_methods([name, name], world=world)
            assert own.items() <= method.config.named().items()


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
    # MetaHeac does not have this setting.
    assert config_of("lr", changes=["penalty=3"]).penalty == 3


def test_a_choice_can_be_that_of_another_method(chosen):
    chosen(metaheac_lengths={"table_scale": 0.2}, adapt_heads="metaheac-lengths")
    assert config_of("adapt-heads").table_scale == 0.2
    assert config_of("adapt-campaign") == configured("adapt-campaign").config


def test_values_reach_all_members_of_an_ensemble_or_the_one_that_is_named(chosen):
    chosen(ensemble={"head.value_dropout": 0.9})
    default, config = configured("ensemble").config, config_of("ensemble")
    assert config.head.value_dropout == 0.9
    assert (config.prior, config.lr) == (default.prior, default.lr)
    changed = config_of("ensemble", changes=["penalty=7", "head.width=8"])
    assert (changed.head.penalty, changed.lr.penalty) == (7, 7)
    assert (changed.head.width, default.head.width) == (8, 16)


@pytest.mark.parametrize("names", [["xgboost"], ["lr", "all"]])
def test_an_unknown_method_is_refused(names):
    with pytest.raises(
        InputError, match=f"--methods: unknown method '{names[-1]}'; choose from .*lr, "
    ):
        build_methods(names)


@pytest.mark.parametrize("change", ["wide=8", "width", "width=0"])
def test_a_change_that_no_method_can_have_is_refused(change):
    with pytest.raises(InputError, match=r"--set: .*width"):
        build_methods(["lr"], changes=[change])
