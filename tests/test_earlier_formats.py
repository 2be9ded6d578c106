"""What version 0.2 has written loads for ever, and gives the scores that it gave then.

`python tests/test_earlier_formats.py FOLDER` writes such a folder. One is added when a format
changes, and none is removed.
"""

import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

import metaheac_jax as mh
from metaheac_jax import model
from metaheac_jax.audience import campaign_folder
from metaheac_jax.audience.campaign_folder import load_customised, read_campaign, save_customised
from metaheac_jax.data import storage
from metaheac_jax.data.storage import write_dataset
from metaheac_jax.training import checkpoint
from metaheac_jax.training.checkpoint import Checkpoints

FIXTURES = Path(__file__).parent / "fixtures"
KEPT = sorted(FIXTURES.iterdir())
ATTRIBUTES = {"advertiser": 2, "category": 1}
USERS = slice(0, 24)


def state():
    """As a checkpoint has it: a network, and a table."""
    table = jnp.arange(24, dtype=jnp.float32).reshape(8, 3) / 7
    return {"network": {"bias": jnp.array([1.5, -2.0]), "count": jnp.int32(9)}, "table": table}


def make(folder):
    data = toy.dataset(users=80, campaigns=4, per_campaign=30, pool=10)
    sizes = {"width": 2, "num_experts": 1, "num_critics": 1, "batch_size": 16}
    sizes |= {"campaigns_per_step": 2, "offline_epochs": 1, "offline_patience": None}
    method = mh.methods.metaheac().with_settings(**sizes)
    write_dataset(data, folder / "data")
    data = mh.open_dataset(folder / "data")
    mh.save(method.fit(data), folder / "model")
    shutil.rmtree(folder / "model" / "optimizer")
    general = mh.load(folder / "model")
    campaign = data.new_campaign(data.user_ids[:20].tolist(), ATTRIBUTES)
    [model] = method.customise(general, data, [campaign])
    save_customised(model, data, folder / "tea")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(5, state())
    (folder / "scores.json").write_text(json.dumps(scores(folder)))


def scores(folder):
    """Of the general model as it is, and of the customised one."""
    data, general = mh.open_dataset(folder / "data"), mh.load(folder / "model")
    untouched = mh.methods.method_of(general).with_settings(online_epochs=0)
    campaign = data.new_campaign(data.user_ids[:20].tolist(), ATTRIBUTES)
    models = [*untouched.customise(general, data, [campaign])]
    models.append(load_customised(folder / "tea", general, data))
    return [np.asarray(model.scorer(data.user_rows[USERS])).tolist() for model in models]


def test_every_format_is_kept():
    """A folder of version 0.2, and one that has each format as it is now."""
    assert "0.2" in {folder.name for folder in KEPT}
    modules = storage, model, campaign_folder, checkpoint
    manifests = [path for of in modules for path in FIXTURES.rglob(of.MANIFEST)]
    kept = {json.loads(path.read_text())["format"] for path in manifests}
    assert {of.FORMAT for of in modules} <= kept


@pytest.mark.parametrize("folder", KEPT, ids=[folder.name for folder in KEPT])
def test_what_was_written_gives_its_scores(folder):
    general, customised = json.loads((folder / "scores.json").read_text())
    assert np.ptp(general) > 0.01
    assert general != customised
    np.testing.assert_allclose(scores(folder), [general, customised], rtol=0, atol=1e-5)
    saved = read_campaign(folder / "tea")
    assert saved.record.attributes == ATTRIBUTES
    assert saved.would_stay(mh.load(folder / "model"), mh.open_dataset(folder / "data"), 5)


@pytest.mark.parametrize("folder", KEPT, ids=[folder.name for folder in KEPT])
def test_a_checkpoint_that_was_written_is_gone_on_from(folder, tmp_path):
    shutil.copytree(folder / "checkpoints", tmp_path / "c")
    with Checkpoints(tmp_path / "c") as checkpoints:
        found = checkpoints.restore(jax.tree.map(jnp.zeros_like, state()))
        assert checkpoints.latest == 5
    jax.tree.map(np.testing.assert_array_equal, found, state())


if __name__ == "__main__":
    make(Path(sys.argv[1]))
