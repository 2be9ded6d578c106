"""MetaHeac (KDD 2021) in JAX: look-alike audience expansion by second-order meta-learning.

    import metaheac_jax as mh

    data = mh.prepare("tables/", "data")
    general = mh.fit(data, "metaheac", seed=0)
    mh.save(general, "models/june")
    audience = mh.expand(general, data, "tea-june", size=10_000)
    data = data.add(examples="shown.csv")

Researchers work with the subpackages: `table` (the embedding table), `data`, `networks`, `training`
(`training.meta` has the meta-step for any loss and any pytree), `customising`, `engines`, `methods`
and `audience`. Each imports only those listed before it. A name of this module is imported when it
is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metaheac_jax import methods
    from metaheac_jax.audience.evaluation import evaluate
    from metaheac_jax.audience.explanation import explain
    from metaheac_jax.audience.retrieve import expand
    from metaheac_jax.backend import check_backend
    from metaheac_jax.data.campaign import Campaign
    from metaheac_jax.data.dataset import Dataset
    from metaheac_jax.data.from_tables import prepare
    from metaheac_jax.data.storage import open_dataset
    from metaheac_jax.engines.exporting import export_scorer
    from metaheac_jax.errors import BackendError, Busy, Diverged, InputError
    from metaheac_jax.methods.fine_tuning import OFFICIAL, PAPER, MetaHeacConfig
    from metaheac_jax.methods.general_models import customise, fit
    from metaheac_jax.model import Customised, General, load, save
    from metaheac_jax.training.implicit import Implicit
    from metaheac_jax.training.inner import inner_update
    from metaheac_jax.training.meta import build_meta_gradient, build_meta_step
    from metaheac_jax.training.sharding import device_mesh

#: The names of each module.
_NAMES = {
    "audience.evaluation": ("evaluate",),
    "audience.explanation": ("explain",),
    "audience.retrieve": ("expand",),
    "backend": ("check_backend",),
    "data.campaign": ("Campaign",),
    "data.dataset": ("Dataset",),
    "data.from_tables": ("prepare",),
    "data.storage": ("open_dataset",),
    "engines.exporting": ("export_scorer",),
    "errors": ("BackendError", "Busy", "Diverged", "InputError"),
    "methods.fine_tuning": ("OFFICIAL", "PAPER", "MetaHeacConfig"),
    "methods.general_models": ("customise", "fit"),
    "model": ("Customised", "General", "load", "save"),
    "training.implicit": ("Implicit",),
    "training.inner": ("inner_update",),
    "training.meta": ("build_meta_gradient", "build_meta_step"),
    "training.sharding": ("device_mesh",),
}

__all__ = [
    "OFFICIAL",
    "PAPER",
    "BackendError",
    "Busy",
    "Campaign",
    "Customised",
    "Dataset",
    "Diverged",
    "General",
    "Implicit",
    "InputError",
    "MetaHeacConfig",
    "build_meta_gradient",
    "build_meta_step",
    "check_backend",
    "customise",
    "device_mesh",
    "evaluate",
    "expand",
    "explain",
    "export_scorer",
    "fit",
    "inner_update",
    "load",
    "methods",
    "open_dataset",
    "prepare",
    "save",
]


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used, since jax, flax and orbax take seconds."""
    if name == "methods":
        return import_module("metaheac_jax.methods")
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"metaheac_jax.{module}"), name)
    raise AttributeError(f"module 'metaheac_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
