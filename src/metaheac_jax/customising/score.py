"""Scorers of customised models: pure functions of arrays and of users' table rows.

A method's scorers make a `Program` each, or one for several campaigns. The host runs it chunk by
chunk, `best_users` keeps its best users on devices, and an export serialises it.

Axes: P users of a pool, S slots of a user, N campaign fields, R rows of the table, k embedding
width, C campaigns, F factors of a head.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.backend import in_threads, jit, profile
from metaheac_jax.data.batches import check_ids, check_slots
from metaheac_jax.data.history import Hidden
from metaheac_jax.data.list_lengths import Lengths
from metaheac_jax.data.views import UserRows
from metaheac_jax.model import (
    AdaptedWeights,
    Scorer,
    Weights,
    on_device,
    with_own_parameters,
)
from metaheac_jax.networks import HeadNetwork, Network
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.table.rows import pinned

_TOGETHER_BYTES = 1 << 30  # of the value weights of campaigns that are scored together
#: How many compiled programs of a kind are kept. A comparison of all methods on a data set needs
#: fewer. There is a bound, so that programs for earlier layouts do not live for ever.
PROGRAMS_KEPT = 16

#: Arrays and (P, S) table rows of users -> (P, C) log-odds. Programs of one kind share one object,
#: so it is compiled once for them.
Function = Callable[[Any, Array], Array]


class Program(NamedTuple):
    """Scores users for C campaigns.

    Attributes:
      function: scores (P, S) table rows by the arrays.
      arrays: nested dicts of arrays. An array named ``table`` has one line per table row.
      num_slots: S.
      num_rows: R, which is also the pad id of users.
    """

    function: Function
    arrays: dict[str, Any]
    num_slots: int
    num_rows: int

    def __call__(self, users: UserRows) -> np.ndarray:
        """(P, S) table rows of users -> (P, C); see `over_users`."""
        function = functools.partial(self.function, self.arrays)
        return over_users(function, users, self.num_slots, self.num_rows)

    def on(self, device: jax.Device) -> Callable[[Array], Array]:
        """The function of users alone, with the arrays on a device."""
        return functools.partial(self.function, on_device(jax.device_put(self.arrays, device)))


class ProgramScorer(ABC):
    """A scorer by a program of jax."""

    @property
    def group(self) -> Hashable:
        """Scorers with equal groups have a common program; by default, each has its own."""
        return id(self)

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """R."""

    @abstractmethod
    def program(self, group: Sequence[Any]) -> Program:
        """Makes the program of C scorers of this one's group."""

    def __call__(self, users: UserRows, /) -> np.ndarray:
        """(P, S) table rows of users -> (P,) log-odds that each converts."""
        return self.program([self])(users)[:, 0]


@dataclass(frozen=True, eq=False)
class AdaptedScorer(ProgramScorer):
    """The scorer of a customised network.

    Attributes:
      network: the network.
      layout: where its fields lie.
      weights: the general weights.
      adapted: the campaign's adapted weights.
      campaign: (N,) table rows of the campaign.
      lengths: adds list lengths to users; None if the network has no fields for them.
    """

    network: Network
    layout: Layout
    weights: Weights
    adapted: AdaptedWeights
    campaign: np.ndarray
    lengths: Lengths | None = None

    @property
    def num_rows(self) -> int:
        """R, without the rows of list lengths."""
        return len(self.weights.table) if self.lengths is None else self.lengths.num_rows

    def program(self, group: Sequence[AdaptedScorer]) -> Program:
        """See `ProgramScorer.program`; the general table is copied if the campaign has own rows."""
        del group  # itself
        params = with_own_parameters(self.weights.network, self.adapted.network)
        table = _with_rows(self.weights.table, self.adapted)
        arrays = {"network": params, "table": table, "campaign": self.campaign}
        return self.as_program(network_function(self.network, self.layout, self.lengths), arrays)

    def as_program(self, function: Function, arrays: dict[str, Any]) -> Program:
        """The program of a function of this scorer's users."""
        added = 0 if self.lengths is None else len(self.lengths.many)
        return Program(function, arrays, self.layout.num_slots - added, self.num_rows)


class HeadScorer(AdaptedScorer):
    """The scorer of a head on factors that all campaigns share; many heads are one matrix."""

    @property
    def group(self) -> Hashable:
        """The factors: those of a general model."""
        return self.network, self.layout, id(self.weights.table), self.lengths

    def program(self, group: Sequence[AdaptedScorer]) -> Program:
        """See `ProgramScorer.program`; the factors are computed once for all heads."""
        if len(group) == 1:
            return super().program(group)
        heads = np.stack(jax.device_get([own.adapted.network["head"] for own in group]))
        arrays: dict[str, Any] = {"network": self.weights.network, "table": self.weights.table}
        arrays |= {"heads": heads, "own": None}
        if any(len(own.adapted.rows) for own in group):
            arrays["own"] = {"table": jnp.asarray(value_weights(group))}
        return self.as_program(head_function(self.network, self.layout, self.lengths), arrays)


@dataclass(frozen=True, eq=False)
class SumScorer(ProgramScorer):
    """The scorer of a weighted sum of the log-odds of other scorers.

    Attributes:
      members: E scorers.
      shares: the E weights.
    """

    members: tuple[ProgramScorer, ...]
    shares: tuple[float, ...]

    @property
    def num_rows(self) -> int:
        """R."""
        return self.members[0].num_rows

    @property
    def group(self) -> Hashable:
        """The members' groups, and the shares."""
        return *(member.group for member in self.members), self.shares

    def program(self, group: Sequence[SumScorer]) -> Program:
        """See `ProgramScorer.program`; each member has one program for all campaigns."""
        columns = zip(*(own.members for own in group), strict=True)
        programs = [column[0].program(column) for column in columns]
        arrays = {str(n): own.arrays for n, own in enumerate(programs)}
        function = _summed(tuple(own.function for own in programs), self.shares)
        return programs[0]._replace(function=function, arrays=arrays)


@dataclass(frozen=True, eq=False)
class HiddenScorer(ProgramScorer):
    """The scorer of users without a part of their histories.

    Attributes:
      scorer: scores them.
      hidden: what is left out.
    """

    scorer: ProgramScorer
    hidden: Hidden

    @property
    def num_rows(self) -> int:
        """R."""
        return self.scorer.num_rows

    @property
    def group(self) -> Hashable:
        """The scorer's, if the same is left out."""
        return self.hidden.rows.tobytes(), self.scorer.group

    def program(self, group: Sequence[HiddenScorer]) -> Program:
        """See `ProgramScorer.program`."""
        program = self.scorer.program([own.scorer for own in group])
        arrays = {"scorer": program.arrays, "hidden": jnp.asarray(self.hidden.rows)}
        function = _hiding(program.function, self.hidden.schema)
        return program._replace(function=function, arrays=arrays)


def without_hidden(scorer: Scorer, hidden: Hidden | None) -> Scorer:
    """The scorer, of users without what is hidden; the same if nothing is."""
    if hidden is None:
        return scorer
    if isinstance(scorer, ProgramScorer):
        return HiddenScorer(scorer, hidden)

    return lambda users: scorer(hidden(np.asarray(users)))


def groups(scorers: Sequence[Scorer]) -> Iterator[tuple[list[int], Program | None]]:
    """The positions of scorers that are scored together, and their program, one after another.

    It is None for a scorer without one, which is alone.
    """
    numbers: dict[Hashable, list[int]] = {}
    for number, scorer in enumerate(scorers):
        key = scorer.group if isinstance(scorer, ProgramScorer) else number
        numbers.setdefault(key, []).append(number)
    for every in numbers.values():
        first = scorers[every[0]]
        if not isinstance(first, ProgramScorer):
            yield every, None
            continue
        size = max(1, _TOGETHER_BYTES // (4 * first.num_rows))
        for start in range(0, len(every), size):
            some = every[start : start + size]
            group: list[Any] = [scorers[number] for number in some]
            yield some, group[0].program(group)  # one alone is scored by its own program


def joint_program(scorers: Sequence[Scorer]) -> Program | None:
    """The program of C scorers; None if the scores of one come from no program of jax."""
    parts = list(groups(scorers))
    programs = [program for _, program in parts if program is not None]
    if len(programs) < len(parts):
        return None
    if len(programs) == 1:
        return programs[0]
    arrays: dict[str, Any] = {str(n): own.arrays for n, own in enumerate(programs)}
    order = np.argsort(np.concatenate([numbers for numbers, _ in parts]))
    arrays["order"] = order.astype(np.int32)
    function = _beside(tuple(own.function for own in programs))
    return programs[0]._replace(function=function, arrays=arrays)


@functools.lru_cache(PROGRAMS_KEPT)
def network_function(network: Network, layout: Layout, lengths: Lengths | None = None) -> Function:
    """A network's function of ``network``, ``table`` (R, k) and ``campaign`` (N,)."""

    def score(arrays: dict[str, Any], users: Array) -> Array:
        users = users if lengths is None else lengths.users(users)
        inputs = layout.inputs(arrays["table"], Ids(users, arrays["campaign"]))
        return network.apply(arrays["network"], *inputs).log_odds[:, None]

    return jit(score)


@functools.lru_cache(PROGRAMS_KEPT)
def head_function(network: HeadNetwork, layout: Layout, lengths: Lengths | None = None) -> Function:
    """Many heads' function of ``network``, ``table``, ``heads`` (C, F) and value weights (R, C)."""

    def score(arrays: dict[str, Any], users: Array) -> Array:
        users = users if lengths is None else lengths.users(users)
        fields = layout.users(arrays["table"], users)
        offset, factors = network.offset_and_factors(arrays["network"], fields)
        log_odds = offset[:, None] + factors @ arrays["heads"].T
        own = arrays["own"]
        if own is None:
            return log_odds
        return log_odds + layout.summed(own["table"], users, mean=network.averages)

    return jit(score)


@functools.lru_cache(PROGRAMS_KEPT)
def _summed(functions: tuple[Function, ...], shares: tuple[float, ...]) -> Function:
    def score(arrays: dict[str, Any], users: Array) -> Array:
        each = [own(arrays[str(n)], users) for n, own in enumerate(functions)]
        # No matrix product, which accelerators round.
        return sum((s * own for s, own in zip(shares, each, strict=True)), jnp.zeros(()))

    return jit(score)


@functools.lru_cache(PROGRAMS_KEPT)
def _beside(functions: tuple[Function, ...]) -> Function:
    def score(arrays: dict[str, Any], users: Array) -> Array:
        each = [own(arrays[str(n)], users) for n, own in enumerate(functions)]
        return jnp.concatenate(each, axis=1)[:, arrays["order"]]

    return jit(score)


@functools.lru_cache(PROGRAMS_KEPT)
def _hiding(function: Function, schema: Any) -> Function:
    def score(arrays: dict[str, Any], users: Array) -> Array:
        return function(arrays["scorer"], Hidden(schema, arrays["hidden"])(users))

    return jit(score)


def _with_rows(table: Array, adapted: AdaptedWeights) -> Array:
    """The general table (R, k) with the rows of a campaign: a copy if it has any."""
    if not len(adapted.rows):
        return table
    return pinned(_replaced(table, adapted.rows, adapted.values))


@jit
def _replaced(table: Array, rows: Array, values: Array) -> Array:
    return table.at[rows].set(values, mode="drop")


def value_weights(group: Sequence[AdaptedScorer]) -> np.ndarray:
    """(R, C) the last column of the rows that are campaigns' own; zero where they have none."""
    num_rows = len(group[0].weights.table)
    weights = np.zeros((num_rows, len(group)), np.float32)
    for number, (_, rows, values) in enumerate(own.adapted for own in group):
        real = rows < num_rows
        weights[rows[real], number] = np.asarray(values)[real, -1]
    return weights


def over_users(
    function: Callable[[np.ndarray], Array], users: UserRows, num_slots: int, num_rows: int
) -> np.ndarray:
    """Applies a function to all users, a chunk at a time, so that it compiles once.

    Several chunks are computed at a time, each in a thread.

    Args:
      function: maps (chunk, S) table rows to (chunk, ...), each row independently.
      users: (P, S) table rows of the users, which may be a memory map.
      num_slots: S.
      num_rows: R, which pads the last chunk.

    Returns:
      (P, ...).

    Raises:
      InputError: an id is outside the table, or the number of slots of the users is wrong.
    """
    check_slots(users, num_slots)
    chunk, num_threads = profile().chunk, profile().num_concurrent_programs

    def apply(start: int) -> np.ndarray:
        part = np.asarray(users[start : start + chunk])
        check_ids(part, num_rows, "the users' ids")
        missing = (0, chunk - len(part)), (0, 0)
        return np.asarray(function(np.pad(part, missing, constant_values=num_rows)))

    starts = range(0, max(len(users), 1), chunk)
    with closing(in_threads(apply, starts, num_threads=num_threads)) as results:
        return np.concatenate(list(results))[: len(users)]
