"""Schema files of tables, which say which columns to use and how to read them."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from metaheac_jax.data.dataset import COLUMN_FIELDS
from metaheac_jax.errors import InputError, check_keys, check_whole
from metaheac_jax.files import read_json


@dataclass(frozen=True)
class Column:
    """How a field is read from its column.

    Attributes:
      name: name of the field and its column.
      slots: number of values kept of a list; 1 for a field with one value. Campaigns that are made
        from a list's column are made from all its values.
      separator: separator of the values of a list in text; a Parquet list column needs none.
      buckets: number of quantile buckets of a numeric field; 0 for a category. A frequent number
        has a bucket of its own.
      hash_rows: number of buckets to which the values of a category are hashed if there are too
        many to keep; 0 keeps them.
      sensitive: whether the field is hidden from all models; see `SensitiveField`.

    Raises:
      InputError: a value is invalid or does not go with another; the message names the field.
    """

    name: str
    slots: int = 1
    separator: str = ""
    buckets: int = 0
    hash_rows: int = 0
    sensitive: bool = False

    def __post_init__(self) -> None:
        where = f"schema: field {self.name!r}"
        check_whole(f"{where}: slots", self.slots, 1)
        check_whole(f"{where}: buckets", self.buckets, 0)
        check_whole(f"{where}: hash_rows", self.hash_rows, 0)
        if self.separator and self.slots == 1:
            raise self._wrong("only a list has a separator; set slots to 2 or more")
        if self.buckets == 1 or (self.buckets and self.slots > 1):
            raise self._wrong("a number needs two buckets or more, and a single slot")
        if self.hash_rows and (self.buckets or self.sensitive):
            raise self._wrong("only a category that is not sensitive can have hash_rows")

    def _wrong(self, what: str) -> InputError:
        return InputError(f"schema: field {self.name!r}: {what}")

    @staticmethod
    def from_json(data: Any) -> Column:
        """A column from plain data.

        Raises:
          InputError: a key is missing or unknown, or a value is wrong; the message names the field.
        """
        name = f" {data['name']!r}" if isinstance(data, dict) and "name" in data else ""
        where = f"schema: field{name}"
        kinds = {known.name: type(known.default) for known in fields(Column)} | {"name": str}
        check_keys(where, data, kinds)
        if "name" not in data:
            raise InputError(f"{where}: has no 'name', got {json.dumps(data)[:80]}")
        return Column(**data)

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` accepts, without default values."""
        plain = {known.name: known.default for known in fields(Column)}
        return {key: value for key, value in vars(self).items() if value != plain[key]}


#: The lists of columns in a schema file.
_LISTS = ("user", "campaign", "campaigns_from")


@dataclass(frozen=True)
class TableSchema:
    """The content of a schema file of tables.

    Attributes:
      user, campaign: fields of users and of campaigns; campaign fields have one slot.
      user_id: name of the id column of users, in all files that have it. If empty, users have no
        id column, and the number of a user's row, from 1, is the id.
      campaign_id: name of the id column of campaigns, in all files that have it.
      min_count: a value that fewer users have shares one table row with all unseen values.
      campaigns_from: columns of users whose values each make a campaign, instead of files of
        campaigns and examples; see `columns_to_campaigns`.
      min_seeds: a value of such a column makes no campaign if fewer users have it, or fewer have
        others only.
      missing: texts that are a missing value if a cell consists of one, such as ``NA``. A text that
        spells a number is also the number in a Parquet file, and never an id.

    Raises:
      InputError: a field is named twice, is an id column or has an option that it cannot have; the
        message names it.
    """

    user: tuple[Column, ...]
    campaign: tuple[Column, ...] = ()
    user_id: str = "user_id"
    campaign_id: str = "campaign_id"
    min_count: int = 1
    campaigns_from: tuple[Column, ...] = ()
    min_seeds: int = 50
    missing: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_whole("schema: min_count", self.min_count, 0)
        check_whole("schema: min_seeds", self.min_seeds, 0)
        names = [column.name for side in _LISTS for column in getattr(self, side)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"schema: field {twice[0]!r} is named twice")
        if self.campaign and self.user_id == self.campaign_id:
            raise InputError(
                f"schema: user_id and campaign_id are both {self.user_id!r}, but examples have "
                "both columns; rename one of them in all files"
            )
        for id_column, columns in (
            (self.user_id, (*self.user, *self.campaigns_from)),
            (self.campaign_id, self.campaign),
        ):
            if any(column.name == id_column for column in columns):
                raise InputError(
                    f"schema: field {id_column!r} is the id column and not a field; remove it "
                    "from the fields"
                )
        for column in self.campaign:
            if column.sensitive:
                raise InputError(
                    f"schema: campaign field {column.name!r} cannot be sensitive; user fields can"
                )
        for column in self.campaigns_from:
            if column.buckets or column.hash_rows or column.sensitive:
                raise InputError(
                    f"schema: campaigns_from {column.name!r}: a column of values has no buckets or "
                    "hash_rows, and is not sensitive"
                )
        taken = sorted({column.name for column in self.user} & set(COLUMN_FIELDS))
        if self.campaigns_from and taken:
            raise InputError(
                f"schema: field {taken[0]!r}: campaigns_from makes a field of this name; rename "
                "the column"
            )
        if self.campaigns_from and self.campaign:
            raise InputError("schema: give either campaign or campaigns_from, and not both")

    @staticmethod
    def from_json(data: Any) -> TableSchema:
        """A schema from plain data, as in a schema file.

        Raises:
          InputError: a key is missing or unknown, or a value is wrong; the message names it.
        """
        kinds = {known.name: type(known.default) for known in fields(TableSchema)}
        check_keys("schema", data, kinds | dict.fromkeys((*_LISTS, "missing"), list))
        missing = tuple(data.get("missing", []))
        if not all(isinstance(text, str) for text in missing):
            raise InputError("schema: missing must be a list of strings")
        if "user" not in data:
            raise InputError("schema: has no 'user'; name the fields of users there")
        sides = {key: tuple(map(Column.from_json, data.get(key, []))) for key in _LISTS}
        tuples: dict[str, Any] = {**sides, "missing": missing}
        schema = TableSchema(**data | tuples)
        if "min_seeds" in data and schema.campaign:
            raise InputError(
                'schema: min_seeds is for "campaigns_from"; remove it, and leave small campaigns '
                "out of the file of campaigns"
            )
        if not schema.campaign and not schema.campaigns_from:
            raise InputError(
                "schema: has no 'campaign'; name the fields of campaigns there, or in "
                "'campaigns_from' columns of users that make campaigns"
            )
        return schema

    @staticmethod
    def read(path: Path) -> TableSchema:
        """The schema in a JSON file.

        Raises:
          InputError: the file is not JSON, a key is missing or unknown, or a value is wrong; the
            message names it.
        """
        content = read_json(path)
        try:
            return TableSchema.from_json(content)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Plain data that `from_json` accepts, without keys that have no effect."""
        data = {**vars(self), "missing": list(self.missing)}
        data |= {side: [column.to_json() for column in getattr(self, side)] for side in _LISTS}
        for key in (
            ("campaigns_from", "min_seeds") if self.campaign else ("campaign", "campaign_id")
        ):
            del data[key]
        return data if self.missing else {key: data[key] for key in data if key != "missing"}
