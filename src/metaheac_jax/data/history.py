"""Histories: campaigns that a user converted in, and those that she was shown and did not.

They are user fields that are computed when rows are read, so an example that is added counts at
once. If examples have times, that of an example has only what was before it. A *list* is a field of
campaign ids, followed by fields with the attributes of the same campaigns in the same slots. Up to
the number of slots, a user's last campaigns are in it, or without times any; all are chosen and
placed without regard to labels.

An example's own campaign is in no list of its user, see `UserView.of_examples`. Nor is a campaign
that a model was not trained on, see `Dataset.limited` and `Hidden`. So whether a slot is empty
tells nothing of the example's label, and labels of held-out and of new campaigns are in no input. A
field that the user table has may be such a list, too (`Field.history`).

Axes: U users, C campaigns, S slots of a user, H slots of a list, F fields of a list, E examples by
user, n users that are read, R table rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metaheac_jax.data.campaign import Campaign, plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.views import History
from metaheac_jax.schema import Field, Schema, Vocabulary

NAMES = {"converted": 1, "not_converted": 0}  # the lists that are computed, and their label
#: An attribute is in the lists if it has so few values that this many campaigns share each.
_CAMPAIGNS_PER_VALUE = 4


def with_histories(data: Dataset) -> Dataset:
    """The data with its histories as user fields; the same object if it has none.

    Its examples, in all stages, make the lists, each with ``schema.history`` slots.
    """
    user, of_campaign, values = data.schema.user, data.schema.campaign, data.vocabulary.values
    slots = data.schema.history
    if not slots and not any(field.history for field in user):
        return data
    ids, first = data.campaign_ids, len(user)
    ids = np.char.decode(ids, "utf-8") if ids.dtype.kind == "S" else ids
    shared = [
        number
        for number, of_field in enumerate(values[first:])
        if _CAMPAIGNS_PER_VALUE * len(of_field) <= len(ids)
    ]
    added, known, used = (
        list[Field](),
        list[np.ndarray](),
        {field.name for field in data.schema.fields},
    )
    for name in NAMES if slots else ():
        while name in used:
            name += "_"
        added.append(Field(name, slots, history=name))
        known.append(np.array(ids))
        for number in shared:
            field = of_campaign[number]
            label = f"{name}_{field.name}"
            added.append(Field(label, slots, field.edges, history=name))
            known.append(values[first + number])
    vocabulary = Vocabulary((*values[:first], *known, *values[first:]))
    schema, pad = replace(data.schema, user=(*user, *added)), vocabulary.num_rows
    rows = np.arange(data.num_rows + 1, dtype=np.int32)  # here, of the rows in the data
    rows[data.vocabulary.offsets[first] :] += pad - data.num_rows
    own_rows, texts = rows[data.campaign_rows], [str(text) for text in ids.tolist()]
    # Positions among the values of a campaign field are those among the values of its list.
    position = data.campaign_rows - np.array(data.vocabulary.offsets[first:])
    position = np.column_stack([np.arange(len(ids)), position[:, shared]])
    missing = np.column_stack([np.zeros(len(ids), bool), (own_rows == pad)[:, shared]])
    parts, size = list[tuple[int, np.ndarray]](), 1 + len(shared)
    for number, kind in enumerate(NAMES.values() if slots else ()):
        start = first + number * size
        offsets = np.array(vocabulary.offsets[start : start + size])
        parts.append((kind, np.where(missing, pad, position + offsets).astype(np.int32)))
    stages = [*data.stages.values()]
    users, campaigns, labels = (
        np.concatenate([getattr(stage, name) for stage in stages])
        for name in ("user", "campaign", "label")
    )
    turn = np.random.Generator(np.random.Philox(0)).permutation(len(ids))[campaigns]
    times, moments, keys = np.concatenate([own.optional("time") for own in stages]), None, None
    order = np.lexsort(((turn + users.astype(np.int64)) % len(ids), times, users))
    counts = np.bincount(users, minlength=data.num_users)
    if any(own.time is not None for own in stages):
        moments = np.unique(times)
        keys = History.key(users[order].astype(np.int64), times[order], moments)
    history = History(
        pad,
        np.ones(len(ids), bool),
        slots,
        np.append(0, np.cumsum(counts)),
        campaigns[order],
        labels[order],
        parts,
        [
            (slice(start, start + field.slots), vocabulary.encode_texts(number, texts))
            for number, (field, start) in enumerate(zip(user, schema.user_starts, strict=False))
            if field.history
        ],
        moments,
        keys,
    )
    view = replace(data.user_rows.mapped(rows), history=history)
    return replace(
        data, schema=schema, vocabulary=vocabulary, user_rows=view, campaign_rows=own_rows
    )


@dataclass(frozen=True, eq=False)
class Hidden:
    """Leaves campaigns out of the histories in rows.

    Attributes:
      schema: the fields.
      rows: (R + 1,) bool, the table rows that are left out, with what is in the same slots.
    """

    schema: Schema
    rows: np.ndarray

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.rows) - 1

    @staticmethod
    def of(data: Dataset, counted: np.ndarray, campaign: Campaign) -> Hidden | None:
        """Hides this campaign, and others that do not count; None if users have no histories.

        Args:
          data: has the vocabulary of a model.
          counted: (C,) bool, the campaigns that the model was trained on.
          campaign: a campaign.
        """
        if not data.schema.lists:
            return None
        hidden = {str(plain_id(key)) for key in data.campaign_ids[~counted]} | {str(campaign.id)}
        vocabulary = data.vocabulary
        rows = np.append(np.zeros(vocabulary.num_rows, bool), True)
        for number, *_ in data.schema.lists:
            start, values = vocabulary.offsets[number], vocabulary.values[number]
            rows[start : start + len(values)] = [str(value) in hidden for value in values.tolist()]
        return Hidden(data.schema, rows)

    def __call__(self, users: Any) -> Any:
        """(U, S) table rows of users -> the same without these campaigns; NumPy or JAX arrays."""
        array, parts, done = users.__array_namespace__(), [], 0
        for _, start, slots, count in self.schema.lists:
            parts.append(users[:, done:start])
            done = start + count * slots
            gone = array.asarray(self.rows)[users[:, start : start + slots]]
            gone = array.concatenate([gone] * count, axis=1)
            parts.append(array.where(gone, self.num_rows, users[:, start:done]))
        return array.concatenate([*parts, users[:, done:]], axis=1).astype(np.int32)
