"""MetaHeac (KDD 2021) in JAX: look-alike audience expansion by second-order meta-learning.

    import metaheac_jax as mh

    data = mh.prepare("tables/", "data")
    general = mh.fit(data, "metaheac", seed=0)
    mh.save(general, "models/june")
    audience = mh.expand(general, data, "tea-june", size=10_000)
    data = mh.add(data, examples="shown.csv")

Researchers work with the subpackages: `table` (the embedding table), `data`, `networks`,
`training`, `customising`, `engines`, `methods` and `audience`. Each imports only those listed
before it. `meta` has the meta-step alone, for any loss and any pytree. A name of this
module is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaheac_jax import methods as methods
    from metaheac_jax.audience.evaluating import evaluate as evaluate
    from metaheac_jax.audience.expanding import expand as expand
    from metaheac_jax.audience.explaining import explain as explain
    from metaheac_jax.backend import check_backend as check_backend
    from metaheac_jax.data.adding import add as add
    from metaheac_jax.data.campaign import Campaign as Campaign
    from metaheac_jax.data.dataset import Dataset as Dataset
    from metaheac_jax.data.preparing import prepare as prepare
    from metaheac_jax.data.storage import open_dataset as open_dataset
    from metaheac_jax.engines.exporting import export_scorer as export_scorer
    from metaheac_jax.errors import BackendError as BackendError
    from metaheac_jax.errors import Busy as Busy
    from metaheac_jax.errors import Diverged as Diverged
    from metaheac_jax.errors import InputError as InputError
    from metaheac_jax.methods.fitting import customise as customise
    from metaheac_jax.methods.fitting import fit as fit
    from metaheac_jax.model import Customised as Customised
    from metaheac_jax.model import General as General
    from metaheac_jax.model import load as load
    from metaheac_jax.model import save as save
    from metaheac_jax.training.sharding import device_mesh as device_mesh

#: The module of each name.
_MODULES = {
    "audience.evaluating": ("evaluate",),
    "audience.explaining": ("explain",),
    "audience.expanding": ("expand",),
    "backend": ("check_backend",),
    "data.adding": ("add",),
    "data.campaign": ("Campaign",),
    "data.dataset": ("Dataset",),
    "data.preparing": ("prepare",),
    "data.storage": ("open_dataset",),
    "engines.exporting": ("export_scorer",),
    "errors": ("BackendError", "Busy", "Diverged", "InputError"),
    "methods.fitting": ("customise", "fit"),
    "model": ("Customised", "General", "load", "save"),
    "training.sharding": ("device_mesh",),
}

__all__ = ["methods", *(name for names in _MODULES.values() for name in names)]


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used, since jax, flax and orbax take seconds."""
    if name == "methods":
        return import_module("metaheac_jax.methods")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"metaheac_jax.{module}"), name)
    raise AttributeError(f"module 'metaheac_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
