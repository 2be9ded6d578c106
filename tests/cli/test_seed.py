"""`--seed` reaches what a command draws at random."""

import pytest
from commands import exit_code

from metaheac_jax.cli import expand, simulate, traits
from metaheac_jax.cli.main import main
from metaheac_jax.errors import InputError
from metaheac_jax.methods import Method, method_named
from metaheac_jax.model import save


@pytest.mark.parametrize("command", ["customise", "expand", "curve", "traits", "evaluate"])
def test_it_reaches_customising(toy_campaign, tmp_path, monkeypatch, command):
    method = method_named("mlp-pretraining").with_settings(campaigns_per_step=3, offline_epochs=0)
    model = tmp_path / "model"
    save(method.fit(toy_campaign.dataset, campaigns=[0, 1, 2]), model)
    random_seeds = []

    def stop(self, *_, seed, **__):
        random_seeds.append(seed)
        raise InputError("seen")

    monkeypatch.setattr(Method, "customise", stop)
    words = {
        "customise": (model, "--out", tmp_path / "tea"),
        "expand": (model, "--out", tmp_path / "a.csv", "--size", 5),
        "curve": (model,),
        "traits": (toy_campaign.first, "--model", model),
        "evaluate": (model,),
    }[command]
    campaign = ("--seeds", toy_campaign.seeds, "--attributes", toy_campaign.attributes)
    words = (*words, "--data", toy_campaign.data, *(campaign if command != "evaluate" else ()))
    assert exit_code(main, command, *words, "--seed", 7) == 2
    assert random_seeds == [7]


@pytest.mark.parametrize(
    ("command", "function"),
    [(traits, "field_importance"), (expand, "describe_audience")],
    ids=["traits", "expand"],
)
def test_it_reaches_what_is_told_of_an_audience(
    toy_campaign, tmp_path, monkeypatch, command, function
):
    random_seeds = []

    def stop(*_, seed, **__):
        random_seeds.append(seed)
        raise InputError("seen")

    monkeypatch.setattr(command, function, stop)
    words = ("--seeds", toy_campaign.seeds, "--attributes", toy_campaign.attributes)
    words += ("--data", toy_campaign.data, "--seed", 7)
    if command is traits:
        words = ("traits", toy_campaign.first, "--model", toy_campaign.model, *words)
    else:
        files = ("--out", tmp_path / "a.csv", "--report", tmp_path / "page.html")
        words = ("expand", toy_campaign.model, "--size", 50, *files, *words)
    assert exit_code(main, *words) == 2
    assert random_seeds == [7]


@pytest.mark.parametrize("tables", [False, True])
def test_it_reaches_the_simulation(tmp_path, monkeypatch, tables):
    random_seeds = []

    def stop(*_, seed, **__):
        random_seeds.append(seed)
        raise InputError("seen")

    name = "write_table_world" if tables else "write_world"
    monkeypatch.setattr(simulate, name, stop)
    flag = ("--tables",) if tables else ()
    assert exit_code(main, "simulate", tmp_path / "world", "--seed", 7, *flag) == 2
    assert random_seeds == [7]
