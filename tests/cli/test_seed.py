"""`--seed` reaches what a command draws at random."""

import pytest
from commands import exit_code

from metaheac_jax.cli.main import main
from metaheac_jax.errors import InputError
from metaheac_jax.methods import Method, method_named
from metaheac_jax.model import save


@pytest.mark.parametrize("command", ["customise", "expand", "curve", "traits"])
def test_it_reaches_customising(toy_campaign, tmp_path, monkeypatch, command):
    general = method_named("mlp-pretraining").with_settings(campaigns_per_step=4, offline_epochs=0)
    model = tmp_path / "model"
    save(general.fit(toy_campaign.dataset), model)
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
    }[command]
    campaign = ("--seeds", toy_campaign.seeds, "--attributes", toy_campaign.attributes)
    words = (*words, "--data", toy_campaign.data, *campaign)
    assert exit_code(main, command, *words, "--seed", 7) == 2
    assert random_seeds == [7]
