"""Files of a toy campaign, for the commands that describe audiences, and a campaign's folder."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from toy import UNTRAINED, dataset

from metaheac_jax.audience.campaign_folder import save_customised
from metaheac_jax.data.dataset import SensitiveField
from metaheac_jax.data.storage import write_dataset
from metaheac_jax.methods import method_named, method_of
from metaheac_jax.model import save

ATTRIBUTES = {"advertiser": 2, "category": 1}


@pytest.fixture(scope="session")
def toy_campaign(tmp_path_factory):
    """Data with a sensitive field, a model, 120 seeds, attributes and two audiences."""
    folder = tmp_path_factory.mktemp("toy_campaign")
    data = dataset(users=400, campaigns=4, per_campaign=40, pool=40)
    codes = (np.arange(400) % 3 == 0).astype(np.int32)[:, None]
    data = replace(data, sensitive={"sex": SensitiveField(np.array(["[men]", "women"]), codes)})
    write_dataset(data, folder / "data")
    save(method_named("cosine").fit(data, campaigns=[0, 1, 2]), folder / "model")
    (folder / "seeds").write_text("\n".join(map(str, data.user_ids[:120])))
    (folder / "attributes").write_text(json.dumps(ATTRIBUTES))
    for name, own in (("first", slice(120, 260)), ("second", slice(200, 300))):
        ids = "\n".join(map(str, data.user_ids[own]))
        (folder / f"{name}.csv").write_text(f"user_id\n{ids}\n")
    names = ("model", "seeds", "attributes", "first.csv", "second.csv")
    paths = {name.split(".")[0]: folder / name for name in names}
    return SimpleNamespace(dataset=data, data=folder / "data", **paths)


@pytest.fixture(scope="session")
def saved_tea(tmp_path_factory):
    """A campaign's folder of 120 seeds, and its data: on a later day one id is no number."""
    folder = tmp_path_factory.mktemp("saved_tea")
    data = dataset(users=400, campaigns=4, per_campaign=40, pool=40)
    user_ids = np.array([str(user).encode() for user in data.user_ids])
    user_ids[-1] = b"A17"
    later = replace(data, user_ids=user_ids, campaign_ids=data.campaign_ids.astype("S"))
    write_dataset(data, folder / "data")
    write_dataset(later, folder / "later")
    method = method_named("mlp-pretraining", UNTRAINED)
    general = save(method.fit(data, campaigns=[0, 1, 2]), folder / "model")
    campaign = data.new_campaign(data.user_ids[:120], ATTRIBUTES, non_seeds_per_seed=1)
    [model] = method_of(general).customise(general, data, [campaign])
    save_customised(model, data, folder / "tea")
    return folder, model


@pytest.fixture
def tea(saved_tea, tmp_path):
    """A folder of one's own beside those, and the users of the campaign by index."""
    folder, model = saved_tea
    for name in ("data", "later", "model", "tea"):
        shutil.copytree(folder / name, tmp_path / name)
    campaign = model.campaign
    return SimpleNamespace(
        folder=tmp_path / "tea",
        model=tmp_path / "model",
        data=tmp_path / "data",
        later=tmp_path / "later",
        user_ids=dataset(users=400, campaigns=4, per_campaign=40, pool=40).user_ids,
        seeds=campaign.seeds,
        non_seeds=campaign.users[campaign.labels == 0],
    )
