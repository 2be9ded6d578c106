"""A customised scorer as files that score users elsewhere.

    scorer.json        the user fields, how their raw values become table rows, versions, digests
    scorer.stablehlo   the program, serialised by `jax.export`
    weights.npz        its first argument, a dictionary of arrays that includes the table
    values.npz         per user field, ``values/NAME``: the known raw values, ascending

The program takes the weights and (P, S) int32 table rows of users, for any P, and returns (P,)
scores. `open_export` reads the files with jax and numpy; it imports no part of the package that
trains. Both sides need flatbuffers: ``pip install "metaheac-jax[export]"``.

Axes: P users, S slots of a user, R rows of the table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax import Array, export

from metaheac_jax.errors import InputError
from metaheac_jax.files import new_directory
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import MISSING_WHOLE, UNSEEN_WHOLE, spelled, whole_number
from metaheac_jax.sealed import read_sealed, seal

if TYPE_CHECKING:
    from metaheac_jax.model import Customised

FORMAT = "metaheac_jax scorer 2"
MANIFEST = "scorer.json"
#: Backends that the program is lowered for.
PLATFORMS = ("cpu", "cuda", "tpu")
_PROGRAM, _WEIGHTS, _VALUES = "scorer.stablehlo", "weights.npz", "values.npz"
_REMEDY = "export the campaign again with `metaheac export`"


class ExportedScorer:
    """Scores users given by their raw values; `open_export` makes one.

    Attributes:
      manifest: the content of ``scorer.json``.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.manifest = manifest
        program = export.deserialize(bytearray((folder / _PROGRAM).read_bytes()))
        self._program = jax.jit(program.call)
        with np.load(folder / _WEIGHTS, allow_pickle=False) as weights:
            self._weights = jax.device_put(dict(weights))
        with np.load(folder / _VALUES, allow_pickle=False) as values:
            self._values = dict(values)

    def __call__(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Columns of P users, by field name -> (P,) scores, higher for more likely converts.

        A column has a cell per user: text, a number, true or false, or None if it is missing; for a
        field with several slots, a list of these.

        Raises:
          InputError: a column is missing, or a cell has another type.
        """
        return self.score(self.rows(columns))

    def score(self, users: np.ndarray) -> np.ndarray:
        """(P, S) int32 table rows of users -> (P,) scores."""
        return np.asarray(self._program(self._weights, users))

    def rows(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Columns of P users, by field name -> (P, S) int32 table rows.

        Raises:
          InputError: a column is missing, or a cell has another type.
        """
        parts = []
        for field in self.manifest["fields"]:
            if field["name"] not in columns:
                raise InputError(f"users: no column {field['name']!r}; add it")
            parts.append(self._rows_of(field, columns[field["name"]]))
        return np.concatenate(parts, axis=1)

    def _rows_of(self, field: Mapping[str, Any], column: Sequence[Any]) -> np.ndarray:
        """(P, slots) int32 table rows of a field."""
        slots, known = field["slots"], self._values[f"values/{field['name']}"]
        lists = [[cell] if slots == 1 else _present(field, cell)[:slots] for cell in column]
        raw = [_raw_value(field, known, value) for values in lists for value in values]
        rows = np.full((len(lists), slots), self.manifest["pad"], np.int32)
        if raw and len(known):
            values = np.array(raw, str if known.dtype.kind == "U" else known.dtype)
            place = np.searchsorted(known, values).clip(max=len(known) - 1)
            found = np.where(known[place] == values, place + field["first"], field["unknown"])
            rows[np.arange(slots) < np.array([[len(values)] for values in lists])] = found
        return rows


def open_export(folder: Path | str, *, progress: Progress = silent) -> ExportedScorer:
    """Reads an exported scorer; verifies every file by its digest before it is used.

    Args:
      folder: from `export_scorer` or `metaheac export`.
      progress: receives the number of bytes verified.

    Raises:
      InputError: there is no export, a file is missing, truncated or altered (it is named), or
        flatbuffers is not installed.
    """
    check_flatbuffers()
    folder = Path(folder)
    manifest = read_sealed(folder, MANIFEST, format=FORMAT, remedy=_REMEDY, progress=progress)
    return ExportedScorer(folder, manifest)


def _present(field: Mapping[str, Any], cell: Any) -> list[Any]:
    """The values of a list, without missing ones; none if the list itself is missing."""
    if cell is None or (isinstance(cell, float) and cell != cell):
        return []
    if isinstance(cell, str | bytes) or not isinstance(cell, Iterable):
        raise _refused(field, cell, "a list")
    return [value for value in cell if not _is_missing(value)]


def _is_missing(value: Any) -> bool:
    return value is None or value == "" or value != value


def _raw_value(field: Mapping[str, Any], known: np.ndarray, value: Any) -> Any:
    """A value in the form of the known ones: a number's or hash's bucket, an integer, or text."""
    bucketed, text = field["edges"] or field["hash_rows"], ""
    if not _is_missing(value):
        text = _as_text(field, value)
    if field["edges"]:
        number = float(text or "nan")
        return -1 if number != number else np.searchsorted(field["edges"], number, side="right")
    if not text:
        return -1 if bucketed else "" if known.dtype.kind == "U" else MISSING_WHOLE
    if field["hash_rows"]:
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") % field["hash_rows"]
    if known.dtype.kind == "U":
        return text
    number = whole_number(text)
    return UNSEEN_WHOLE if number is None else number


def _as_text(field: Mapping[str, Any], value: Any) -> str:
    """The text that `metaheac prepare` makes of a value."""
    if not isinstance(value, str | bool | int | float | np.generic):
        raise _refused(field, value, "text, a number, or true or false")
    return spelled(str(value))


def _refused(field: Mapping[str, Any], value: Any, expected: str) -> InputError:
    shown = " ".join(repr(value).split())[:80]
    return InputError(f"users: field {field['name']!r}: expected {expected}, got {shown}")


def export_scorer(model: Customised, directory: Path | str, *, progress: Progress = silent) -> None:
    """Writes the scorer of a customised model into a folder, completely or not at all.

    An existing export is replaced. It scores any user, also the campaign's seeds.

    Args:
      model: customised model of a method that adapts a network.
      directory: the folder.
      progress: receives the number of bytes whose digest is computed.

    Raises:
      InputError: the method adapts no network's weights, the folder exists and is not an export or
        has a foreign file in it, or flatbuffers is not installed.
    """
    check_flatbuffers()
    general, program = model.general, model.scorer.program()
    if program is None:
        raise InputError(
            f"{model.campaign.name}: {general.method!r} has no network to export; use a method "
            "that has, such as 'metaheac'"
        )
    (weights, score), vocabulary = program, general.vocabulary
    values = zip(general.schema.user, vocabulary.values, strict=False)  # campaign fields follow
    with new_directory(Path(directory), marker=MANIFEST) as folder:
        (folder / _PROGRAM).write_bytes(_serialised(score, weights, general.schema.num_slots))
        np.savez(folder / _WEIGHTS, **weights)
        named: dict[str, Any] = {f"values/{field.name}": known for field, known in values}
        np.savez(folder / _VALUES, **named)
        content = {
            "format": FORMAT,
            "method": general.method,
            "campaign": model.campaign.name,
            "model_digest": None if general.origin is None else general.origin.digest,
            "slots": general.schema.num_slots,
            "pad": vocabulary.num_rows,
            "fields": _fields(model),
            "platforms": PLATFORMS,
            "versions": {"metaheac_jax": version("metaheac-jax"), "jax": jax.__version__},
        }
        files = [folder / name for name in (_PROGRAM, _WEIGHTS, _VALUES)]
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


def _serialised(score: Callable[..., Array], weights: dict[str, Any], num_slots: int) -> bytes:
    """The program, for any number of users."""
    (count,) = export.symbolic_shape("users")
    shapes: Any = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), weights)
    users = jax.ShapeDtypeStruct((count, num_slots), np.int32)
    with _without_source_files():
        return bytes(export.export(jax.jit(score), platforms=PLATFORMS)(shapes, users).serialize())


@contextmanager
def _without_source_files() -> Iterator[None]:
    """Keeps the paths of source files, which jax notes for each operation, out of programs."""
    name = "jax_hlo_source_file_canonicalization_regex"
    before = getattr(jax.config, name)
    jax.config.update(name, ".*")
    try:
        yield
    finally:
        jax.config.update(name, before)


def _fields(model: Customised) -> list[dict[str, Any]]:
    """Per user field, the data that maps its raw values to table rows.

    The known value at position i has the row ``first + i``; an unknown value has ``unknown``.
    """
    vocabulary = model.general.vocabulary
    return [
        {
            "name": field.name,
            "slots": field.slots,
            "edges": field.edges,
            "hash_rows": field.hash_rows,
            "first": vocabulary.offsets[number],
            "unknown": vocabulary.unknown_row(number),
        }
        for number, field in enumerate(model.general.schema.user)
    ]
