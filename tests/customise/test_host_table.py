"""A table in host memory: what is customised and scored is as with the table on a device."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from toy import UNTRAINED, dataset, with_shares

from metaheac_jax import backend, model
from metaheac_jax.audience.retrieve import expand_all
from metaheac_jax.customise import score
from metaheac_jax.customise.host_table import HostRows
from metaheac_jax.methods import method_named
from metaheac_jax.model import AdaptedWeights, load, on_device, save
from metaheac_jax.table.layout import Layout

DATA = dataset(users=300, campaigns=6, per_campaign=60, pool=40)


def test_ids_point_at_their_rows_with_those_of_the_campaign_in_their_place():
    table = np.arange(40.0, dtype=np.float32).reshape(20, 2)
    rows, values = np.array([2, 5, 19, 20], np.int32), np.full((4, 2), -1, np.float32)
    ids = {"a": np.array([[5, 20], [7, 19]]), "b": np.array([7])}
    cut, local = HostRows(Layout.one_field(), multiple=8).cut(
        table, ids, AdaptedWeights({}, rows, values)
    )
    assert cut.shape == (8, 2)
    whole = np.concatenate([table, [[0, 0]]])
    whole[[5, 19]] = -1
    padded = np.concatenate([cut, [[0, 0]]])
    for name, some in ids.items():
        np.testing.assert_array_equal(padded[local[name]], whole[some])


def test_no_ids_name_no_rows():
    cut, ids = HostRows(Layout.one_field()).cut(np.ones((5, 2)), np.array([5, 5]))
    assert not np.asarray(cut).any()
    assert (ids == len(cut)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "adapts"),
    [
        ("mlp-pretraining", "all"),
        ("metaheac", "heads"),
        ("solved-head", "all"),
        ("seed-aware", "all"),
        ("ensemble", "all"),
        ("lr", "all"),
    ],
)
def test_a_method_does_the_same_with_its_table_in_host_memory(monkeypatch, tmp_path, name, adapts):
    monkeypatch.setattr(score, "_HOST_BLOCK", 128)  # several, and a part of one
    method = method_named(name, UNTRAINED).with_settings(online_adapts=adapts)
    save(with_shares(method.fit(DATA, campaigns=[0, 1, 2], seed=4)), tmp_path / "model")
    campaigns = [DATA.campaign(c) for c in (1, 4)]
    found = []
    for room in (True, False):
        monkeypatch.setattr(model, "has_room", lambda _, room=room: room)
        general = load(tmp_path / "model")
        assert isinstance(general.state["table"], jax.Array) == room
        models = method.customise(general, DATA, campaigns, seed=5)
        quality = method.judge(general, DATA, [4, 5], seed=5)
        audiences = expand_all(models, DATA, size=50)
        scores = [audience.scores for audience in audiences]
        found.append([quality, *scores, *(model.score(DATA.user_rows) for model in models)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *found)


def test_a_state_that_is_on_a_device_is_left_there():
    state = {"network": {"a": jax.numpy.ones(3)}, "table": jax.numpy.ones((4, 2))}
    assert on_device(state) is state


def test_an_array_has_room_if_half_of_the_memory_is_left(monkeypatch):
    def has_room(num_bytes, stats):
        device = SimpleNamespace(memory_stats=lambda: stats)
        monkeypatch.setattr(backend.jax, "local_devices", lambda: [device])
        return backend.has_room(num_bytes)

    assert has_room(1 << 60, None)  # a CPU
    assert has_room(500, {"bytes_limit": 1000})
    assert not has_room(501, {"bytes_limit": 1000})
