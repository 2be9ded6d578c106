"""Methods by name."""

from dataclasses import replace
from functools import partial

import pytest

import metaheac_jax.methods as package
import metaheac_jax.methods.registry as registry
from metaheac_jax.errors import InputError
from metaheac_jax.methods.registry import METHODS, method_named
from metaheac_jax.settings import OFFICIAL, PAPER

#: The methods of the paper's tables.
PAPER_METHODS = {
    *("lr", "mlp-one-stage", "mlp-pretraining", "mlp-embeddings", "shared-bottom", "mmoe"),
    *("pinterest", "hubble", "metaheac", "without-meta", "without-he", "without-hc"),
}


def test_every_method_is_there_under_its_name():
    assert set(METHODS) >= PAPER_METHODS
    for name in METHODS:
        assert method_named(name).name == name
    assert len({method_named(name).label for name in METHODS}) == len(METHODS)


def test_methods_are_the_constructors_that_the_package_exports():
    exported = [getattr(package, name) for name in package.__all__ if name.islower()]
    constructors = [f for f in exported if f.__module__ != registry.__name__]
    built = {build.func if isinstance(build, partial) else build for build in METHODS.values()}
    assert built == set(constructors)


def test_methods_take_the_settings_given():
    for name, build in METHODS.items():
        # 7 is no default; and none of the methods has examples per batch of its own.
        assert build(replace(OFFICIAL, batch_size=7)).settings.batch_size == 7
        assert method_named(name).settings.batch_size == PAPER.batch_size


def test_what_is_tuned_are_settings():
    for name in METHODS:
        method = method_named(name)
        assert all(isinstance(getattr(method.settings, of), float | int) for of in method.tuned)
        assert method.takes_steps == (method.work[0] > 0)


def test_what_scores_mean_without_seeds_and_as_probabilities():
    methods = [method_named(name) for name in METHODS]
    other = {"cosine", "pinterest", "prior", "seed-aware", "alpha-0-seeds", "mlp-seeds"}
    assert {m.name for m in methods if not m.log_odds} == other
    seedless = {m.name for m in methods if not m.general_scores}
    assert seedless == {"hubble", "pinterest", "mlp-embeddings"}


def test_methods_whose_networks_do_not_split_refuse_to_adapt_heads():
    settings = replace(PAPER, online_adapts="heads")
    whole = {
        "lr",
        "lr-lengths",
        "mlp-one-stage",
        "mlp-embeddings",
        "pinterest",
        "hubble",
        "shared-bottom",
        "mmoe",
    }
    whole |= {"lightgbm", "cosine", "prior", "ensemble"}
    for name, build in METHODS.items():
        if name in whole:
            with pytest.raises(InputError, match=f"{name}: cannot adapt heads only; choose a "):
                build(settings)
        else:
            assert build(settings).settings.online_adapts == "heads"


def test_an_unknown_name_is_answered_with_those_that_exist():
    with pytest.raises(InputError, match="unknown method 'heac'; choose from lr, mlp-one-stage,"):
        method_named("heac")
