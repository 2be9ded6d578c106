"""Scores users with the files of `metaheac export`; needs only jax, numpy and flatbuffers.

    scorer = ExportedScorer("tea")
    scores = scorer({"city": ["Paris", None], "income": [31000, None], "likes": [["tea"], []]})

A column has one cell per user, as in the files that `metaheac prepare` has read: a value, or a list
for a field with several slots; None if it is missing, also where a text such as "NA" stands for a
missing value by the schema. A value that `metaheac prepare` may have spelled in another way, such
as a date, raises a ValueError; give it as text. All users are scored. excluded.csv lists those whom
`metaheac expand` leaves out: the seeds and the excluded users.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export


class ExportedScorer:
    """Scores users given by their raw values."""

    def __init__(self, folder: str | Path) -> None:
        """Reads the files of an exported folder."""
        folder = Path(folder)
        self.manifest = json.loads((folder / "scorer.json").read_text())
        program = export.deserialize(bytearray((folder / "scorer.stablehlo").read_bytes()))
        self.program = jax.jit(program.call)
        self.weights = jax.device_put(dict(np.load(folder / "weights.npz")))
        self.values = dict(np.load(folder / "values.npz"))

    def __call__(self, columns: Mapping[str, Sequence[Any]]) -> np.ndarray:
        """Maps columns of P users, by field name, to (P,) scores."""
        fields = self.manifest["fields"]
        rows = [self.rows(field, columns[field["name"]]) for field in fields]
        return np.asarray(self.program(self.weights, np.concatenate(rows, axis=1)))

    def rows(self, field: Mapping[str, Any], column: Sequence[Any]) -> np.ndarray:
        """(P, slots) int32 table rows of a field's column."""
        slots, known = field["slots"], self.values[f"values/{field['name']}"]
        lists = [[cell] if slots == 1 else present(field, cell)[:slots] for cell in column]
        raw = [raw_value(field, value) for values in lists for value in values]
        rows = np.full((len(lists), slots), self.manifest["pad"], np.int32)
        if raw and len(known):
            raw = np.array(raw, str if known.dtype.kind == "U" else known.dtype)
            place = np.searchsorted(known, raw).clip(max=len(known) - 1)
            found = np.where(known[place] == raw, place + field["first"], field["unknown"])
            rows[np.arange(slots) < np.array([[len(values)] for values in lists])] = found
        return rows


def present(field: Mapping[str, Any], cell: Any) -> list[Any]:
    """The values of a list, without missing ones; none if the list itself is missing."""
    if isinstance(cell, str | bytes) or not isinstance(cell, Iterable):
        if cell is None or cell == "" or cell != cell:
            return []
        raise refused(field, cell, "a list; split text at the separator in the schema")
    return [value for value in cell if value is not None and value != ""]


def raw_value(field: Mapping[str, Any], value: Any) -> Any:
    """A value in the form of the known ones: a number's or hash's bucket, an integer, or text."""
    if value is None or value == "" or value != value:
        return field["missing"]
    if field["edges"]:
        number = float(value if isinstance(value, Decimal) else as_plain(field, value))
        if number != number:  # the text "nan"
            return field["missing"]
        return np.searchsorted(field["edges"], number, side="right")
    text = as_text(field, value)
    if field["hash_rows"]:
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") % field["hash_rows"]
    return int(text.removesuffix(".0")) if field["missing"] == -1 else text


def as_text(field: Mapping[str, Any], value: Any) -> str:
    """The text that `metaheac prepare` makes of a value."""
    value = as_plain(field, value)
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, str):
        return value
    if not isinstance(value, float | np.floating):
        if field.get("whole") is not False:
            return str(value)
        if abs(value) >= 2**53:
            raise refused(field, value, "its text, since that of a float varies")
        return f"{value}.0"  # as the known values are spelled, also in a column of whole numbers
    text = str(value)
    if float(value).is_integer() and abs(value) < 2**53:
        return str(int(value)) if field.get("whole") else text
    # Floats with an exponent or of 32 bits have several spellings.
    if "e" in text or (np.float32(value) == value and str(np.float32(value)) != text):
        raise refused(field, value, "its text, since that of a float varies")
    return text


def as_plain(field: Mapping[str, Any], value: Any) -> Any:
    """The value, if it is text, a number, or true or false."""
    if isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return value
    raise refused(field, value, "text, a number, or true or false")


def refused(field: Mapping[str, Any], value: Any, expected: str) -> ValueError:
    """The error for a cell whose text is not known."""
    shown = " ".join(repr(value).split())[:80]
    return ValueError(f"field {field['name']!r}: {shown}: expected {expected}")
