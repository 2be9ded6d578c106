"""Customising many campaigns goes on where it stopped, to the same bits."""

from dataclasses import replace
from threading import Thread

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import dataset

from metaheac_jax.audience.calibration import calibrate
from metaheac_jax.customise import kept as module
from metaheac_jax.customise.kept import KeptCampaigns
from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.methods import mlp_pretraining, solved_heads
from metaheac_jax.model import AdaptedWeights, Weights
from metaheac_jax.settings import PAPER

DATA = dataset(users=200, campaigns=6, per_campaign=60, pool=10)
SETTINGS = replace(
    PAPER, width=2, batch_size=32, campaigns_per_step=2,
    offline_epochs=0, offline_patience=None, online_epochs=2, online_patience=None,
    online_learning_rate=0.05,
)  # fmt: skip


class Stopped(Exception):
    pass


@pytest.mark.parametrize("adapts", ["all", "heads"])
def test_what_was_customised_is_not_customised_again(tmp_path, adapts):
    method = mlp_pretraining(replace(SETTINGS, online_adapts=adapts))
    general = method.fit(DATA)
    campaigns = [DATA.campaign(c) for c in range(6)]
    folder, done = tmp_path / "kept", []

    def customise(stop=None, seed=0, directory=folder):
        def progress(what, number, total):
            done.append(number)
            if number == stop:
                raise Stopped

        done.clear()
        models = method.customise(
            general,
            DATA,
            campaigns,
            seed=seed,
            directory=directory and str(directory),
            progress=progress,
        )
        return [jax.device_get(model.adapted) for model in models]

    whole = customise(directory=None)
    with pytest.raises(Stopped):
        customise(stop=3)
    assert len(list(folder.iterdir())) == 3
    found = customise()
    assert done == [3, 4, 5, 6]
    jax.tree.map(np.testing.assert_array_equal, found, whole)

    damaged = sorted(folder.iterdir())[0]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert len(customise()) == 6
    assert done == [5, 6]
    customise(seed=1)  # another result
    assert done[0] == 0
    method = method.with_settings(online_learning_rate=0.02)
    customise()
    assert done[0] == 0


def test_calibrating_takes_what_is_kept(tmp_path):
    """`expand --campaigns --probability` customises all campaigns twice, and may be killed."""
    data = dataset(users=800, campaigns=6, per_campaign=400, pool=10)
    method = mlp_pretraining(SETTINGS)
    general, campaigns, done = method.fit(data), [data.campaign(c) for c in range(3)], []

    def calibrated():
        done.clear()
        note = lambda what, number, total: done.append(number)  # noqa: E731
        found = calibrate(method, general, data, campaigns, directory=tmp_path, progress=note)
        return [one.line(0.1) for one in found]

    first = calibrated()
    assert done[0] < 3
    assert calibrated() == first
    assert done == [3]
    method.customise(general, data, campaigns, directory=tmp_path, progress=lambda *_: None)
    assert len(list(tmp_path.iterdir())) == 6  # of fewer examples, and of all


def test_what_is_kept_is_found_for_the_same_work_alone(tmp_path, monkeypatch):
    weights = Weights({"params": {"bias": jnp.zeros(())}}, jnp.zeros((4, 2)))
    rows, values = np.array([1], np.int32), jnp.ones((1, 2))
    adapted = AdaptedWeights({"params": {"bias": jnp.ones(())}}, rows, values)
    examples = campaign_examples(DATA, DATA.campaign(0))
    kept = KeptCampaigns(tmp_path, weights, ["paper", 0])
    kept.add(examples, adapted)
    jax.tree.map(np.testing.assert_array_equal, kept.find(examples), adapted)
    assert kept.find(examples._replace(label=1 - examples.label)) is None
    moved = weights._replace(table=weights.table + 1)
    for other, options in ((moved, ["paper", 0]), (weights, ["paper", 1])):
        assert KeptCampaigns(tmp_path, other, options).find(examples) is None
    assert KeptCampaigns(tmp_path, weights, ["paper", 0]).find(examples) is not None
    monkeypatch.setattr(module, "environment", lambda: {"program": "another version"})
    assert KeptCampaigns(tmp_path, weights, ["paper", 0]).find(examples) is None


def test_an_equal_campaign_that_another_process_keeps_is_waited_for(tmp_path, writers):
    weights = Weights({"params": {"bias": jnp.zeros(())}}, jnp.zeros((4, 2)))
    adapted = AdaptedWeights(weights.network, np.array([1], np.int32), jnp.ones((1, 2)))
    examples = campaign_examples(DATA, DATA.campaign(0))
    kept = KeptCampaigns(tmp_path, weights, [])
    kept.add(examples, adapted)
    [path] = tmp_path.iterdir()
    path.unlink()
    adding = Thread(target=kept.add, args=(examples, adapted))
    with writers.of(path):
        adding.start()
        adding.join(0.5)
        assert adding.is_alive()
    adding.join()
    assert [own.name for own in tmp_path.iterdir()] == [path.name]


def test_a_head_that_was_solved_is_not_solved_again(tmp_path, monkeypatch):
    method = solved_heads.solved_head(SETTINGS)
    general = method.fit(DATA)
    campaigns = [DATA.campaign(c) for c in range(6)]
    solved, build = [], solved_heads.compiled_solver

    def stopping(pool):
        def solve(weights, examples, *, penalty):
            if len(solved) == 3:
                raise Stopped
            solved.append(len(examples.label))
            return build(pool)(weights, examples, penalty=penalty)

        return solve

    def customise(general, directory):
        models = method.customise(general, DATA, campaigns, directory=directory)
        return [jax.device_get(model.adapted) for model in models]

    whole = customise(general, None)
    monkeypatch.setattr(solved_heads, "compiled_solver", stopping)
    with pytest.raises(Stopped):
        customise(general, tmp_path)
    assert len(list(tmp_path.iterdir())) == len(solved) == 3
    solved.clear()
    jax.tree.map(np.testing.assert_array_equal, customise(general, tmp_path), whole)
    assert len(solved) == 3
    with pytest.raises(Stopped):  # another result
        customise(method.fit(DATA, seed=1), tmp_path)


def test_what_cannot_be_kept_ends_the_work(tmp_path):
    method = mlp_pretraining(SETTINGS)
    (tmp_path / "kept").write_text("no folder")
    with pytest.raises(OSError, match="File exists"):
        method.customise(method.fit(DATA), DATA, [DATA.campaign(0)], directory=tmp_path / "kept")
