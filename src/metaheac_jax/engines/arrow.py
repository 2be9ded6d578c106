"""Scores users in Arrow batches with an export, without the part of the package that trains.

Raw values become table rows as in `metaheac prepare`. Users are scored in chunks of one shape, so
that XLA compiles once.

Axes: P users, S slots of a user, C campaigns of an export.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jax import export as jax_export
from pyarrow import types
from scipy.sparse import csr_matrix

from metaheac_jax.backend import check_backend, jit, profile
from metaheac_jax.boundary import Column, check_arrays, read_archive
from metaheac_jax.encoding import Encoder, array_of, is_text, type_of
from metaheac_jax.engines.export_files import PROGRAM, REMEDY, VALUES, WEIGHTS, Export, read_export
from metaheac_jax.errors import InputError, about
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import Schema, Vocabulary
from metaheac_jax.summary import SUMMARY_COLUMNS, Summary

#: The column of users with their histories.
HISTORY = "metaheac_history"


def open_export(folder: Path | str, *, progress: Progress = silent) -> ArrowScorer:
    """The scorer of an export in a folder.

    Raises:
      InputError: as `read_export`, or this version of jax cannot read the program.
    """
    scorer = ArrowScorer(read_export(folder, progress=progress))
    made = scorer.export.manifest["versions"]["jax"]
    if jax.__version_info__ < tuple(int(part) for part in made.split(".") if part.isdigit()):
        readers = scorer.export.manifest["readers"]
        warnings.warn(f"{folder}: is for {readers}, this is {jax.__version__}", stacklevel=2)
    return scorer


@functools.lru_cache(maxsize=1)
def scorer_of_worker(export: Export) -> ArrowScorer:
    """The scorer of an export in a worker process, which keeps the last one.

    XLA gets as many threads as Spark or Ray has given to the worker.

    Raises:
      BackendError: jax computes wrongly in this process.
    """
    if "OMP_NUM_THREADS" in os.environ:
        os.environ.setdefault("NPROC", os.environ["OMP_NUM_THREADS"])
    check_backend()
    return ArrowScorer(export)


class ArrowScorer:
    """Scores users by the raw values in their columns, for all campaigns of an export in one pass.

    Attributes:
      export: the content of the export.
      campaigns: (C,) ids of the campaigns, int64 or text.
      user_id: name of the id column of users.
      columns: names of the columns of users that it reads. If the model reads histories, the last
        is `HISTORY`, with a list of ``tokens`` for each user.
      tokens: texts that stand for an example, by its label, then its campaign; others do not count.
        None if the model reads no histories.
    """

    def __init__(self, export: Export) -> None:
        """Raises:
        InputError: the export is not what `exporting.export_scorer` writes.
        """
        self.export, manifest = export, export.manifest
        with about("export"):
            schema = Schema.from_json(manifest["schema"])
        ids = manifest["campaigns"]
        if len({*map(type, ids)}) != 1:
            raise InputError(f"export: campaigns are not all numbers or all texts; {REMEDY}")
        self.campaigns, self.user_id = pa.array(ids), schema.user_id
        self.campaign_id, self.columns = schema.campaign_id, [field.name for field in schema.user]
        values = read_archive(export.files[VALUES], f"export: {VALUES}", REMEDY)
        columns = schema.value_columns("values/")
        if schema.history:
            columns |= {f"summary/{name}": column for name, column in SUMMARY_COLUMNS.items()}
        check_arrays(values, columns, f"export: {VALUES}", REMEDY)
        of_fields, self._summary = [values[f"values/{field.name}"] for field in schema.fields], None
        self.tokens: list[str] | None = None
        num_slots = schema.num_slots
        if schema.history:
            self._summary = Summary(*(values[f"summary/{name}"] for name in Summary._fields))
            self.tokens = [
                f"{label}:{name}" for label in (0, 1) for name in self._summary.campaigns
            ]
            self._known = pa.array(self.tokens, pa.string())
            self._weights_of_examples = self._summary.weights
            self.columns.append(HISTORY)
            of_fields.insert(0, np.arange(len(self._summary.center)))  # it is the first field
            num_slots += len(self._summary.center)
        vocabulary = Vocabulary(tuple(of_fields))
        first = len(of_fields) - len(schema.fields)
        self._encoders = [
            Encoder(number, field, vocabulary, schema.missing)
            for number, field in enumerate(schema.user, start=first)
        ]
        self._pad = vocabulary.num_rows
        self._chunk = profile().chunk
        try:
            program = jax_export.deserialize(bytearray(export.files[PROGRAM]))
            program.mlir_module()  # the operations, which are read when they are asked for
        except Exception as error:  # of a damaged program, any
            raise InputError(
                f"export: jax {jax.__version__} cannot read the program, which is for "
                f"{manifest['readers']}; {REMEDY}"
            ) from error
        weights = read_archive(export.files[WEIGHTS], f"export: {WEIGHTS}", REMEDY)
        (kinds, users), _ = program.in_tree.unflatten(program.in_avals)
        columns = {name: Column(array.dtype.str[1:], array.shape) for name, array in kinds.items()}
        check_arrays(weights, columns, f"export: {WEIGHTS}", REMEDY)
        sizes = users.shape[1], *(array.shape[1] for array in program.out_avals)
        if sizes != (num_slots, len(ids)):
            raise InputError(f"export: {PROGRAM} is of other slots or campaigns; {REMEDY}")
        self._program, self._weights = jit(program.call), jax.device_put(weights)

    def __call__(self, users: pa.RecordBatch | pa.Table) -> np.ndarray:
        """Columns of P users, by field name -> (P, C) scores, higher for more likely converts.

        Raises:
          InputError: as `rows`.
        """
        return self.score(self.rows(users))

    def score(self, rows: np.ndarray) -> np.ndarray:
        """(P, S) int32 table rows of users -> (P, C) float32 scores."""
        count, chunk = len(rows), self._chunk
        rows = np.pad(rows, ((0, -count % chunk), (0, 0)), constant_values=self._pad)
        starts = range(0, len(rows), chunk)
        parts = [self._program(self._weights, rows[start : start + chunk]) for start in starts]
        return np.concatenate([np.empty((0, len(self.campaigns)), np.float32), *parts])[:count]

    def rows(self, users: pa.RecordBatch | pa.Table) -> np.ndarray:
        """Columns of P users, by field name -> (P, S) int32 table rows.

        Raises:
          InputError: a column is missing or has another type, or a cell is no number.
        """
        for encoder in self._encoders:
            encoder.check(type_of(users.schema, encoder.field.name))
        parts = [encoder.rows(array_of(users[encoder.field.name])) for encoder in self._encoders]
        if self._summary is not None:
            type_of(users.schema, HISTORY)
            parts.insert(0, self._histories(array_of(users[HISTORY])))
        return np.concatenate(parts, axis=1)

    def _histories(self, column: pa.Array) -> np.ndarray:
        """(P, H) int32 bits of the numbers of histories, from lists of tokens."""
        assert self._summary is not None
        lists = pc.cast(column, pa.list_(pa.string()))
        length = pc.list_value_length(lists).fill_null(0).to_numpy()
        token = pc.index_in(lists.flatten(), self._known).fill_null(-1).to_numpy()
        known = token >= 0
        user = np.repeat(np.arange(len(length)), length)[known]
        shape, ones = (len(length), len(self._known)), np.ones(known.sum())
        examples = csr_matrix((ones, (user, token[known])), shape)
        return self._summary.numbers(examples, self._weights_of_examples).view(np.int32)

    def check_examples(self, columns: Sequence[str] | None) -> None:
        """Refuses examples that lack a column, or none if the model reads histories.

        Raises:
          InputError: a column is missing, or ``columns`` is None.
        """
        if self._summary is None:
            return
        wanted = [self.campaign_id, self.user_id, "label"]
        lacking = [name for name in wanted if columns is None or name not in columns]
        if lacking:
            raise InputError(
                f"examples: no column {lacking[0]!r}; the model reads histories, so give a table "
                f"of all examples with {', '.join(wanted)}"
            )

    def check_sample(self, users: pa.Table) -> pa.DataType:
        """Checks all columns, and the values of some users, before many are scored.

        Warns of a field most of whose values are unseen in training.

        Returns:
          The type of the ids.

        Raises:
          InputError: as `rows`, or ids are neither whole numbers nor text.
        """
        name = self.user_id
        kind = type_of(users.schema, name)
        if not (types.is_integer(kind) or is_text(kind)):
            raise InputError(
                f"users: {name!r} is of type {kind}, expected whole numbers or text; cast it"
            )
        self.rows(users)
        for encoder in self._encoders:
            share, example = encoder.unseen(array_of(users[encoder.field.name]))
            if share > 0.5:
                warnings.warn(
                    f"users: column {encoder.field.name!r}: of the values in {users.num_rows:,} "
                    f"users {share:.0%} are unseen in training, such as {example!r}; check it",
                    stacklevel=3,
                )
        return kind
