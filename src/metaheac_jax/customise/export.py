"""A customised scorer as files that score users with jax and numpy only, without this package.

    scorer.json        the user fields, how their raw values become table rows, versions, checksums
    scorer.stablehlo   the program, serialised by `jax.export`
    weights.npz        its first argument, a dictionary of arrays that includes the table
    values.npz         per user field, ``values/NAME``: the known raw values, ascending
    excluded.csv       user_id: the campaign's seeds and excluded users, whom `expand` leaves out

The program takes the weights and (P, S) int32 table rows of users, for any P, and returns (P,)
scores. ``experiments/examples/exported_scorer.py`` reads the files. Both sides need
flatbuffers, which `jax.export` serialises with: ``pip install "metaheac-jax[export]"``.

Axes: P users, S slots of a user, R rows of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from metaheac_jax.customise.score import AdaptedScorer
from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.sources.table_fields import has_pointed
from metaheac_jax.errors import InputError
from metaheac_jax.files import new_directory, write_csv
from metaheac_jax.model import Customised, with_own_parameters
from metaheac_jax.progress import Progress, silent
from metaheac_jax.sealed import Parent, seal
from metaheac_jax.table.layout import Ids

FORMAT = "metaheac_jax scorer 1"
MANIFEST = "scorer.json"
#: The file of an export with the ids of users whom the campaign's audiences leave out.
EXCLUDED = "excluded.csv"
#: Backends that the program is lowered for.
PLATFORMS = ("cpu", "cuda", "tpu")


def export_scorer(
    model: Customised,
    directory: Path | str,
    *,
    made_from: Sequence[Parent] = (),
    progress: Progress = silent,
) -> None:
    """Writes the scorer of a customised model into a folder, completely or not at all.

    An existing export is replaced. The program scores any user. `EXCLUDED` lists those whom
    `expand` leaves out: the seeds and `Customised.excluded_ids`, in ascending order.

    Args:
      model: customised model of a method that adapts a network.
      directory: the folder.
      made_from: what it was made from besides the general model, such as a campaign folder.
      progress: receives the number of bytes checksummed.

    Raises:
      InputError: the method adapts no network's weights, the folder exists and is not an export or
        has a foreign file in it, or flatbuffers is not installed.
    """
    check_flatbuffers()
    scorer = model.scorer
    if not isinstance(scorer, AdaptedScorer):
        raise InputError(
            f"{model.campaign.name}: {model.general.method!r} has no network to export; use a "
            "method that has, such as 'metaheac'"
        )
    weights = _weights(scorer)
    with new_directory(Path(directory), marker=MANIFEST) as folder:
        names = ("scorer.stablehlo", "weights.npz", "values.npz", EXCLUDED)
        files = [folder / name for name in names]
        files[0].write_bytes(_program(scorer, weights, model.general.schema.num_slots))
        np.savez(files[1], **weights)
        np.savez(files[2], **_values(model))
        write_csv(files[3], ("user_id",), ([plain_id(own)] for own in _left_out(model)))
        content = {
            "format": FORMAT,
            "method": model.general.method,
            "campaign": model.campaign.name,
            "model_digest": None if model.general.origin is None else model.general.origin.digest,
            "made_from": [parent._asdict() for parent in made_from],
            "slots": model.general.schema.num_slots,
            "pad": model.general.vocabulary.num_rows,
            "fields": _fields(model),
            "platforms": PLATFORMS,
            "versions": {"metaheac_jax": version("metaheac-jax"), "jax": jax.__version__},
        }
        seal(folder, MANIFEST, content, files, progress=progress)


def check_flatbuffers() -> None:
    """Refuses to continue without flatbuffers.

    Raises:
      InputError: flatbuffers is not installed.
    """
    if find_spec("flatbuffers") is None:
        raise InputError(
            "an export needs flatbuffers; install it with pip install 'metaheac-jax[export]'"
        )


def _left_out(model: Customised) -> list[Any]:
    """Ids of the seeds and of the excluded users, ascending and distinct."""
    seeds, excluded = model.seed_ids, model.excluded_ids
    return np.union1d(seeds, excluded if len(excluded) else seeds[:0]).tolist()


def _weights(scorer: AdaptedScorer) -> dict[str, Any]:
    """The campaign's network parameters and table, as a flat dictionary."""
    general, adapted = scorer.weights, scorer.adapted
    table, rows = np.array(general.table), adapted.rows
    table[rows[rows < len(table)]] = np.asarray(adapted.values)[rows < len(table)]
    params = flatten_dict(with_own_parameters(general.network, adapted.network), sep="/")
    return {"table": table, **{f"network/{path}": np.asarray(a) for path, a in params.items()}}


def _program(scorer: AdaptedScorer, weights: dict[str, Any], num_slots: int) -> bytes:
    """The serialised program, for any number of users."""
    network, layout, lengths = scorer.pool_scorer.network, scorer.pool_scorer.layout, scorer.lengths
    campaign = np.asarray(scorer.campaign)

    @jax.jit
    def score(weights: dict[str, Array], users: Array) -> Array:
        params = unflatten_dict(weights, sep="/")["network"]
        if lengths is not None:
            users = lengths.users(users)
        output = network.apply(params, *layout.inputs(weights["table"], Ids(users, campaign)))
        return output.log_odds

    (count,) = jax.export.symbolic_shape("users")
    shapes: Any = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), weights)
    users = jax.ShapeDtypeStruct((count, num_slots), np.int32)
    return bytes(jax.export.export(score, platforms=PLATFORMS)(shapes, users).serialize())


def _fields(model: Customised) -> list[dict[str, Any]]:
    """Per user field, the data that maps its raw values to table rows.

    The known value at position i has the row ``first + i``; an unknown value has ``unknown``.
    If ``whole`` is true, the text of 1.0 is 1; otherwise it is 1.0.
    """
    vocabulary, fields = model.general.vocabulary, []
    for number, field in enumerate(model.general.schema.user):
        values = vocabulary.values[number]
        numeric = values.dtype.kind in "iu"
        fields.append(
            {
                "name": field.name,
                "slots": field.slots,
                "whole": numeric or not has_pointed(values),
                "edges": field.edges,
                "hash_rows": field.hash_rows,
                "first": vocabulary.offsets[number],
                "unknown": vocabulary.unknown_row(number),
                "missing": -1 if numeric else "",
            }
        )
    return fields


def _values(model: Customised) -> dict[str, Any]:
    general = model.general
    return {
        f"values/{field.name}": values
        for field, values in zip(general.schema.user, general.vocabulary.values, strict=False)
    }
