"""Files of a toy campaign, for the commands that describe audiences."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from toy import dataset

from metaheac_jax.data.dataset import SensitiveField
from metaheac_jax.data.storage import write_dataset
from metaheac_jax.methods import method_named
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
