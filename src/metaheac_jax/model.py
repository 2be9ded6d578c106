"""General and customised models, and saving and loading of general models.

Axes: R rows of the table, U rows that adapting touched, P users, S slots of a user, k embedding
width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from metaheac_jax.backend import jit, processor
from metaheac_jax.boundary import COUNT, Column, Columns, check_arrays, check_plain, read_array
from metaheac_jax.data.batches import check_ids, check_slots
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.views import UserRows
from metaheac_jax.errors import Diverged, InputError, about
from metaheac_jax.files import new_directory
from metaheac_jax.networks import Network
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import Schema, Vocabulary
from metaheac_jax.sealed import read_sealed, read_undisturbed, seal
from metaheac_jax.summary import SUMMARY_COLUMNS, Summary
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.rows import pinned


class Weights(NamedTuple):
    """The weights that training changes: the network's parameters, and the whole table (R, k)."""

    network: Any
    table: Array


class AdaptedWeights(NamedTuple):
    """The weights that differ from the general model's after adapting to one campaign.

    Attributes:
      network: parameters of the network; missing ones are the general model's.
      rows: (U,) table rows that adapting touched; R for padding.
      values: (U, k) embeddings of these rows.
    """

    network: Any
    rows: np.ndarray
    values: Array


def with_own_parameters(general: Any, own: Any) -> Any:
    """A network's parameters (nested dicts): the campaign's own ones replace the general ones."""
    return unflatten_dict(flatten_dict(general) | flatten_dict(own))


def initialise(
    network: Network, key: Array, layout: Layout, *, num_rows: int, width: int
) -> Weights:
    """Untrained weights: table entries from N(0, 1), layers as the network draws them.

    Args:
      key: consumed; split between the network and the table.
      num_rows: R.
      width: k.
    """
    network_key, table_key = jax.random.split(key)
    user = jnp.zeros((1, layout.num_user_fields, width))
    campaign = jnp.zeros((layout.num_campaign_fields, width))
    table = jax.random.normal(table_key, (num_rows, width))
    return Weights(jit(network.init)(network_key, user, campaign), table)


def weight_columns(network: Network, layout: Layout, *, num_rows: int, width: int) -> Columns:
    """What the arrays of a network's `Weights` must be, by name; for the sizes see `initialise`."""
    start = functools.partial(initialise, network, layout=layout, num_rows=num_rows, width=width)
    shapes = jax.eval_shape(start, jax.random.key(0))._asdict()
    flat: dict[str, Any] = flatten_dict(shapes, sep="/")
    return {name: Column(leaf.dtype.str[1:], leaf.shape) for name, leaf in flat.items()}


#: Scores users for one campaign: (P, S) table rows -> (P,), higher for more likely converts.
Scorer = Callable[[UserRows], np.ndarray]
#: The result of a method's offline stage: nested dicts with arrays at the leaves.
State = Mapping[str, Any]


def on_device(state: State) -> State:
    """Converts a state's numpy arrays to jax's; tables get the place that gathers need."""

    def put(path: tuple[Any, ...], leaf: np.ndarray | Array) -> Array:
        array = jnp.asarray(leaf)
        return pinned(array) if getattr(path[-1], "key", "") == "table" else array

    return jax.tree_util.tree_map_with_path(put, dict(state))


class Judgement(NamedTuple):
    """The quality of a state of training, after customising it to held-out campaigns.

    Attributes:
      step: number of offline steps.
      auc: weighted mean of the AUC over the campaigns.
      loss: weighted mean of the logistic loss over the campaigns.
    """

    step: int
    auc: float
    loss: float


class SeedPoint(NamedTuple):
    """What a number of seeds is worth on held-out campaigns that have twice as many or more.

    Attributes:
      seeds: the number.
      auc: mean AUC of models that are customised to so many seeds of each campaign.
      auc_of_all: that of models that are customised to half of a campaign's seeds.
      campaigns: number of the campaigns.
    """

    seeds: int
    auc: float
    auc_of_all: float
    campaigns: int


@dataclass(frozen=True, eq=False)
class General:
    """A general model: what a method has learned from many campaigns, and from which fields.

    Attributes:
      method: name of the method that trained it.
      config: the settings of that method, as plain data; see `methods.method_of`.
      schema: the fields.
      vocabulary: values of the fields, hence the table's rows.
      state: what the method learned. Of a method with a network it has ``network`` and ``table``,
        as `Weights` has.
      data: name of the data set.
      end: time before which all examples were that it has learned from, see `Dataset.until`; None
        if there was no limit.
      campaigns: ids of the training campaigns.
      seed: seed of the training.
      judgements: judgements on held-out campaigns, in the order of steps; ``state`` is the one with
        the highest AUC, before a prior is learned again. Empty if training had no early stopping.
      held_out: ids of the campaigns that were held out to decide when to stop or what to use,
        including those of the training that this one continued, unless this one trained on them.
        A learned prior learns from them after these choices.
      digest: digest of the folder from which the model was loaded; None if it was not.
      optimizer: the state from which training can continue: ``network`` has the state of the
        network's optimiser, ``table`` the moments of the table (R, k), and ``count`` the number of
        steps. An ensemble has these three per member that takes steps, under its name, and the
        total ``count``. None if there is no such state, or it was not loaded.
      seed_curve: what few seeds are worth, by ascending numbers; empty if no campaigns were held
        out.
      summary: how histories of users are read, which are the first user field then; None if the
        model reads none.
    """

    method: str
    config: Mapping[str, Any]
    schema: Schema
    vocabulary: Vocabulary
    state: State
    data: str
    campaigns: tuple[int | str, ...]
    seed: int
    judgements: tuple[Judgement, ...] = ()
    held_out: tuple[int | str, ...] = ()
    digest: str | None = None
    optimizer: State | None = None
    end: int | None = None
    summary: Summary | None = None
    seed_curve: tuple[SeedPoint, ...] = ()

    def told_of_seeds(self, count: int) -> str:
        """Says in a sentence what so few seeds are worth; empty if that is not known, or little."""
        point = next((point for point in self.seed_curve if point.seeds >= count), None)
        if point is None or point.auc_of_all - point.auc < _LEAST_LOSS:
            return ""
        return (
            f"{count:,} seeds are few: on {point.campaigns} held-out campaigns, {point.seeds:,} "
            f"seeds of each gave an AUC of {point.auc:.3f}, and half of each one's seeds "
            f"{point.auc_of_all:.3f}"
        )

    def read(self, data: Dataset) -> Dataset:
        """Encodes data as the model reads it, see `Dataset.encoded_for`.

        Raises:
          InputError: the data has another schema.
        """
        return data.encoded_for(self.schema, self.vocabulary, self.summary)

    @property
    def num_slots(self) -> int:
        """S."""
        return self.schema.num_slots + (0 if self.summary is None else len(self.summary.center))


@dataclass(frozen=True, eq=False)
class Customised:
    """A general model customised to one campaign.

    Attributes:
      general: the general model.
      campaign: the campaign.
      scorer: scores users for it.
    """

    general: General
    campaign: Campaign
    scorer: Scorer

    def score(self, users: UserRows) -> np.ndarray:
        """Scores users: (P, S) table rows -> (P,), higher for more likely converts.

        Raises:
          InputError: users do not have the number of slots of the model's schema, or an id is
            outside its table.
          Diverged: a score is not a number.
        """
        general = self.general
        check_slots(users, general.num_slots)
        if isinstance(users, np.ndarray):
            numbers = general.num_slots - general.schema.num_slots + general.schema.num_numbers
            num_rows = general.vocabulary.num_rows + general.num_slots - general.schema.num_slots
            check_ids(users[:, numbers:], num_rows, "the users' ids")
        return self.check_scores(self.scorer(users))

    def check_scores(self, scores: np.ndarray) -> np.ndarray:
        """Returns the scorer's scores after checking them.

        Raises:
          Diverged: a score is not a number.
        """
        if np.isnan(scores).any():
            raise Diverged(
                f"{self.campaign.name}: a score of {self.general.method} is not a number"
            )
        return scores


FORMAT = "metaheac_jax general model 5"
MANIFEST = "model.json"
_LEAST_LOSS = 0.01  # of AUC that is worth a word
_OPTIMIZER = "optimizer"  # the subfolder for further training
_SUMMARY = "summary"  # the subfolder of how histories are read
_REMEDY = "give the folder that `save` or `metaheac fit` has written"
#: Attributes of a general model that are plain data, besides ``end``.
_PLAIN = {
    "method": str,
    "config": dict,
    "data": str,
    "campaigns": [(int, str)],
    "seed": COUNT,
    "judgements": [[COUNT, float, float]],
    "held_out": [(int, str)],
    "seed_curve": [[COUNT, float, float, COUNT]],
}


def save(general: General, directory: Path | str, *, progress: Progress = silent) -> None:
    """Writes a general model into a folder, completely or not at all.

    The folder holds ``model.json`` (method, config, schema, data, versions, processor, checksums),
    and one ``.npy`` file per array. An existing model is replaced.

    Raises:
      InputError: the folder exists and is not a model, or has a foreign file in it.
    """
    names = [field.name for field in general.schema.fields]
    values = dict(zip(names, general.vocabulary.values, strict=True))
    arrays = {"values": values, "state": dict(general.state), _OPTIMIZER: general.optimizer or {}}
    arrays[_SUMMARY] = {} if general.summary is None else general.summary._asdict()
    content = {
        "format": FORMAT,
        "schema": general.schema.to_json(),
        "versions": {"metaheac_jax": version("metaheac-jax"), "jax": jax.__version__},
        "processor": processor(),
        **{name: getattr(general, name) for name in (*_PLAIN, "end")},
    }
    with new_directory(Path(directory), marker=MANIFEST) as folder:
        files = []
        for name, array in flatten_dict(arrays, sep="/").items():
            files.append(folder / f"{name}.npy")
            files[-1].parent.mkdir(parents=True, exist_ok=True)
            np.save(files[-1], np.asarray(array), allow_pickle=False)
        seal(folder, MANIFEST, content, files, progress=progress)
        _read(folder, optimizer=False)  # what cannot be read again replaces no model


def load(directory: Path | str, *, optimizer: bool = False, progress: Progress = silent) -> General:
    """Reads a general model from a folder that `save` has written; verifies every file it reads.

    Args:
      optimizer: also read the state of its optimiser, if there is one.

    Raises:
      InputError: there is no model, or a file is missing, truncated or altered; the message names
        the file.
    """
    folder = Path(directory)
    general = read_undisturbed(folder, MANIFEST, lambda: _read(folder, optimizer, progress))
    return replace(general, state=on_device(general.state))


def _under(top: str, flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arrays in a subfolder, as nested dicts."""
    names = [name for name in flat if name.startswith(f"{top}/")]
    return unflatten_dict({name.removeprefix(f"{top}/"): flat[name] for name in names}, sep="/")


def _read(folder: Path, optimizer: bool, progress: Progress = silent) -> General:
    def wanted(name: str) -> bool:
        return optimizer or not name.startswith(f"{_OPTIMIZER}/")

    content = {"schema": dict, **_PLAIN}
    options: dict[str, Any] = {"verify": wanted, "progress": progress, "content": content}
    body = read_sealed(folder, MANIFEST, format=FORMAT, remedy=_REMEDY, **options)
    names = filter(wanted, body["files"])
    flat = {n.removesuffix(".npy"): np.array(read_array(folder / n, _REMEDY)) for n in names}
    with about(folder / MANIFEST):
        schema = Schema.from_json(body["schema"])
    check_arrays(flat, schema.value_columns("values/"), str(folder), _REMEDY)
    for name, array in flat.items():  # what they must be otherwise, the method says
        is_number = array.dtype.isnative and array.dtype.kind in "biuf"
        known = name.startswith(("values/", f"{_SUMMARY}/"))
        if not known and not (is_number and array.dtype.itemsize <= 8):
            raise InputError(f"{folder}: {name} has no numbers; {_REMEDY}")
    try:
        arrays = {top: _under(top, flat) for top in ("values", "state", _OPTIMIZER, _SUMMARY)}
    except TypeError as error:
        raise InputError(f"{folder}: a file has the name of a folder; {_REMEDY}") from error
    summary = None
    if arrays[_SUMMARY]:
        check_arrays(arrays[_SUMMARY], SUMMARY_COLUMNS, f"{folder}: {_SUMMARY}", _REMEDY)
        summary = Summary(**{name: arrays[_SUMMARY][name] for name in Summary._fields})
    check_plain(body.get("end"), (int, type(None)), f"{folder / MANIFEST}: end", _REMEDY)
    plain: dict[str, Any] = {"end": body.get("end")} | {name: body[name] for name in _PLAIN}
    plain |= {name: tuple(body[name]) for name in ("campaigns", "held_out")}
    return General(
        schema=schema,
        vocabulary=Vocabulary(tuple(arrays["values"][field.name] for field in schema.fields)),
        state=arrays["state"],
        digest=body["digest"],
        optimizer=arrays[_OPTIMIZER] or None,
        summary=summary,
        **plain
        | {"judgements": tuple(Judgement(*line) for line in body["judgements"])}
        | {"seed_curve": tuple(SeedPoint(*line) for line in body["seed_curve"])},
    )
