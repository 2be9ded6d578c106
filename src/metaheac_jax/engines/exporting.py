"""Writes the scorers of customised models as an export; see `export_files`.

Axes: P users, S slots of a user, C campaigns.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array, export

from metaheac_jax.customising.score import Program, joint_program
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.engines.export_files import (
    FORMAT,
    MANIFEST,
    PROGRAM,
    VALUES,
    WEIGHTS,
    read_export,
)
from metaheac_jax.errors import InputError
from metaheac_jax.files import new_directory
from metaheac_jax.model import Customised
from metaheac_jax.progress import Progress, silent
from metaheac_jax.sealed import seal

#: Backends that the program is lowered for.
PLATFORMS = ("cpu", "cuda", "tpu")


def export_scorer(
    models: Customised | Sequence[Customised],
    directory: Path | str,
    *,
    progress: Progress = silent,
) -> None:
    """Writes the scorers of C customised models into a folder, completely or not at all.

    An existing export is replaced. It scores any user, also seeds of the campaigns. Histories lack
    all these campaigns.

    Args:
      models: models of one general model, each of another campaign; or one model.
      directory: the folder.
      progress: receives the number of bytes whose digest is computed.

    Raises:
      InputError: the method adapts no network's weights, the models are of several general models
        or of one campaign, or the folder exists and is not an export or has a foreign file in it.
    """
    models = [models] if isinstance(models, Customised) else models
    general, program = models[0].general, joint_program([model.scorer for model in models])
    campaigns = [_id_of(model.campaign) for model in models]
    if len({*campaigns}) < len(campaigns) or any(model.general is not general for model in models):
        raise InputError("export: expected models of one general model for different campaigns")
    if program is None:
        raise InputError(
            f"{models[0].campaign.name}: {general.method!r} has no network to export; use a method "
            "that has, such as 'metaheac'"
        )
    schema, vocabulary = general.schema, general.vocabulary
    content = {
        "format": FORMAT,
        "method": general.method,
        "campaigns": campaigns,
        "schema": schema.to_json(),
        "platforms": PLATFORMS,
        "versions": {"metaheac_jax": version("metaheac-jax"), "jax": jax.__version__},
        # What `jax.export` promises.
        "readers": f"jax {jax.__version__} and versions up to 3 weeks older or 6 months newer",
    }
    known: dict[str, Any] = {
        f"values/{field.name}": values
        for field, values in zip(schema.fields, vocabulary.values, strict=True)
    }
    if general.summary is not None:
        summary = general.summary.without(map(str, campaigns))
        known |= {f"summary/{name}": array for name, array in summary._asdict().items()}
    with new_directory(Path(directory), marker=MANIFEST) as folder:
        weights, serialised = _serialised(program)
        (folder / PROGRAM).write_bytes(serialised)
        np.savez(folder / WEIGHTS, **weights)
        np.savez(folder / VALUES, **known)
        files = [folder / name for name in (PROGRAM, WEIGHTS, VALUES)]
        seal(folder, MANIFEST, content, files, progress=progress)
        read_export(folder)  # what cannot be read again replaces no export


def _id_of(campaign: Campaign) -> int | str:
    return campaign.name if campaign.id is None else campaign.id


def _serialised(program: Program) -> tuple[dict[str, Any], bytes]:
    """The arrays by name, and ``score(arrays, users)`` of them, for any number of users."""
    leaves, tree = jax.tree.flatten_with_path(program.arrays)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    weights = {name: np.asarray(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}

    def score(arrays: dict[str, Array], users: Array) -> Array:
        return program.function(tree.unflatten([arrays[name] for name in names]), users)

    (count,) = export.symbolic_shape("users")
    shapes: Any = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), weights)
    users = jax.ShapeDtypeStruct((count, program.num_slots), np.int32)
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)  # else the program has paths and functions of its callers
    try:
        exported = export.export(jax.jit(score), platforms=PLATFORMS)(shapes, users)
        return weights, bytes(exported.serialize())
    finally:
        jax.config.update(name, before)
