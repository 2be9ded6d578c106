"""MetaHeac (KDD 2021) in JAX: look-alike audience expansion by second-order meta-learning.

    import metaheac_jax as mh

    data = mh.open_dataset("prepared/")
    method = mh.methods.metaheac(mh.PAPER)
    general = method.fit(data, seed=0)
    general = mh.save(general, "models/june")

    campaign = data.new_campaign(seeds=user_ids, attributes={"advertiserId": 42, ...})
    [model] = method.customise(general, data, [campaign])
    audience = mh.expand(model, data, size=10_000)

Researchers work with the subpackages: `table` (the embedding table), `data`, `networks`, `training`
(`training.meta` has the meta-step for any loss and any pytree), `customise`, `methods` and
`audience`. Each imports only those listed before it.
"""

from metaheac_jax import methods
from metaheac_jax.audience.audience import Audience
from metaheac_jax.audience.campaign_folder import (
    add_feedback,
    load_customised,
    save_customised,
    update_customised,
)
from metaheac_jax.audience.retrieve import expand, expand_all
from metaheac_jax.backend import check_backend
from metaheac_jax.data.campaign import Campaign, CampaignBrief
from metaheac_jax.data.campaign_record import Feedback
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.storage import open_dataset, write_dataset
from metaheac_jax.errors import BackendError, Busy, Diverged, InputError
from metaheac_jax.model import Customised, General, load, save
from metaheac_jax.settings import OFFICIAL, PAPER, Settings
from metaheac_jax.training.implicit import Implicit
from metaheac_jax.training.inner import inner_update
from metaheac_jax.training.meta import build_meta_gradient, build_meta_step
from metaheac_jax.training.sharding import device_mesh

__all__ = [
    "OFFICIAL",
    "PAPER",
    "Audience",
    "BackendError",
    "Busy",
    "Campaign",
    "CampaignBrief",
    "Customised",
    "Dataset",
    "Diverged",
    "Feedback",
    "General",
    "Implicit",
    "InputError",
    "Settings",
    "add_feedback",
    "build_meta_gradient",
    "build_meta_step",
    "check_backend",
    "device_mesh",
    "expand",
    "expand_all",
    "inner_update",
    "load",
    "load_customised",
    "methods",
    "open_dataset",
    "save",
    "save_customised",
    "update_customised",
    "write_dataset",
]
