"""Scorers of customised models: pure functions of arrays and of users' table rows.

A method's scorers make a `Program` each, or one for several campaigns. The host runs it chunk by
chunk, `best_users` keeps its best users on devices, and an export serialises it.

Axes: P users of a pool, S slots of a user, N campaign fields, R rows of the table, k embedding
width, C campaigns, F factors of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.backend import in_threads, jit, profile
from metaheac_jax.data.batches import check_slots, whole_chunk
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
        function = partial(self.function, self.arrays)
        return over_users(function, users, self.num_slots, self.num_rows)

    def on(self, device: jax.Device) -> Callable[[Array], Array]:
        """The function of users alone, with the arrays on a device."""
        return partial(self.function, on_device(jax.device_put(self.arrays, device)))


@dataclass(frozen=True, eq=False)
class ProgramScorer:
    """Scores users for a campaign by a program; scorers with the same ``program`` have one.

    Attributes:
      program: makes the program of C campaigns from what each has of its own.
      own: what this campaign has.
      num_rows: R.
    """

    program: Callable[[Sequence[Any]], Program]
    own: Any
    num_rows: int

    def __call__(self, users: UserRows, /) -> np.ndarray:
        """(P, S) table rows of users -> (P,) log-odds that each converts."""
        return self.program([self.own])(users)[:, 0]


#: What a campaign has of its own: its adapted weights, and (N,) the table rows of its attributes.
Own = tuple[AdaptedWeights, np.ndarray]


def network_scorers(
    network: Network, layout: Layout, weights: Weights, campaigns: Iterable[Own]
) -> list[ProgramScorer]:
    """Makes the scorers of a network that is customised to campaigns; each is scored alone.

    Args:
      layout: where the network's fields lie.
      weights: the general weights.
    """
    each = partial(partial, _network_program, network, layout, weights)
    return [ProgramScorer(each(), campaign, len(weights.table)) for campaign in campaigns]


def head_scorers(
    network: HeadNetwork, layout: Layout, weights: Weights, campaigns: Iterable[Own]
) -> list[ProgramScorer]:
    """As `network_scorers`, of heads on factors that all campaigns share; they are one matrix."""
    together = partial(_head_program, network, layout, weights)
    return [ProgramScorer(together, campaign, len(weights.table)) for campaign in campaigns]


def sum_scorers(
    members: Sequence[Sequence[ProgramScorer]], shares: tuple[float, ...]
) -> list[ProgramScorer]:
    """Makes the scorers of weighted sums of the log-odds of other scorers.

    Args:
      members: E members' scorers of all campaigns.
      shares: the E weights.
    """
    together = functools.cache(lambda *programs: partial(_sum_program, programs, shares))
    return [
        ProgramScorer(
            together(*(scorer.program for scorer in each)),
            tuple(scorer.own for scorer in each),
            each[0].num_rows,
        )
        for each in zip(*members, strict=True)
    ]


def scorers_after(lengths: Lengths | None, scorers: Sequence[Scorer]) -> list[Scorer]:
    """Makes scorers of users without list lengths from scorers of users with them."""
    if lengths is None:
        return [*scorers]
    together = functools.cache(lambda program: partial(_program_after, program, lengths))
    return [
        replace(scorer, program=together(scorer.program), num_rows=lengths.num_rows)
        if isinstance(scorer, ProgramScorer)
        else lambda users, scorer=scorer: scorer(lengths(np.asarray(users)))
        for scorer in scorers
    ]


def groups(scorers: Sequence[Scorer]) -> Iterator[tuple[list[int], Program | None]]:
    """The positions of scorers that are scored together, and their program, one after another.

    It is None for a scorer without one, which is alone.
    """
    together = dict[Any, list[tuple[int, ProgramScorer]]]()
    for number, scorer in enumerate(scorers):
        if isinstance(scorer, ProgramScorer):
            together.setdefault(scorer.program, []).append((number, scorer))
        else:
            yield [number], None
    for program, every in together.items():
        size = max(1, _TOGETHER_BYTES // (4 * every[0][1].num_rows))
        for start in range(0, len(every), size):
            numbers, some = zip(*every[start : start + size], strict=True)
            yield [*numbers], program([scorer.own for scorer in some])


def joint_program(scorers: Sequence[Scorer]) -> Program | None:
    """The program of C scorers; None if the scores of one come from no program of jax."""
    parts = list(groups(scorers))
    programs = [program for _, program in parts if program is not None]
    if len(programs) < len(parts):
        return None
    if len(programs) == 1:
        return programs[0]
    order = np.argsort(np.concatenate([numbers for numbers, _ in parts]))
    return _joined(programs, _beside, order=order.astype(np.int32))


def _network_program(
    network: Network, layout: Layout, weights: Weights, campaigns: Sequence[Own]
) -> Program:
    """The program of one campaign; the general table is copied if the campaign has own rows."""
    [(adapted, campaign)] = campaigns
    params = with_own_parameters(weights.network, adapted.network)
    table = _with_rows(weights.table, adapted)
    arrays = {"network": params, "table": table, "campaign": campaign}
    function = network_function(network, layout)
    return Program(function, arrays, layout.num_slots, len(weights.table))


def _head_program(
    network: HeadNetwork, layout: Layout, weights: Weights, campaigns: Sequence[Own]
) -> Program:
    """The program of C heads; the factors are computed once for all."""
    if len(campaigns) == 1:
        return _network_program(network, layout, weights, campaigns)
    every = [adapted for adapted, _ in campaigns]
    heads = np.stack(jax.device_get([adapted.network["head"] for adapted in every]))
    arrays: dict[str, Any] = {**weights._asdict(), "heads": heads, "own": None}
    if any(len(adapted.rows) for adapted in every):
        arrays["own"] = {"table": jnp.asarray(value_weights(every, len(weights.table)))}
    function = head_function(network, layout)
    return Program(function, arrays, layout.num_slots, len(weights.table))


def _sum_program(
    programs: Sequence[Callable[[Sequence[Any]], Program]],
    shares: tuple[float, ...],
    campaigns: Sequence[tuple[Any, ...]],
) -> Program:
    """The program of weighted sums; each member has one program for all campaigns."""
    columns = zip(programs, zip(*campaigns, strict=True), strict=True)
    return _joined([program(part) for program, part in columns], partial(_weighted, shares=shares))


def _program_after(
    program: Callable[[Sequence[Any]], Program], lengths: Lengths, campaigns: Sequence[Any]
) -> Program:
    """The program of users without list lengths."""
    inner = program(campaigns)
    function = _after(inner.function, lengths)
    return Program(function, inner.arrays, lengths.schema.num_slots, lengths.num_rows)


def _joined(
    programs: Sequence[Program], join: Callable[..., Function], **arrays: np.ndarray
) -> Program:
    """The program by a joint function of several ones, and by more arrays."""
    every = {str(number): program.arrays for number, program in enumerate(programs)}
    function = join(tuple(program.function for program in programs))
    return programs[0]._replace(function=function, arrays=every | arrays)


@functools.lru_cache(PROGRAMS_KEPT)
def network_function(network: Network, layout: Layout) -> Function:
    """A network's function of ``network``, ``table`` (R, k) and ``campaign`` (N,)."""

    def score(arrays: dict[str, Any], users: Array) -> Array:
        inputs = layout.inputs(arrays["table"], Ids(users, arrays["campaign"]))
        return network.apply(arrays["network"], *inputs).log_odds[:, None]

    return jit(score)


@functools.lru_cache(PROGRAMS_KEPT)
def head_function(network: HeadNetwork, layout: Layout) -> Function:
    """Many heads' function of ``network``, ``table``, ``heads`` (C, F) and value weights (R, C)."""

    def score(arrays: dict[str, Any], users: Array) -> Array:
        fields = layout.users(arrays["table"], users)
        offset, factors = network.offset_and_factors(arrays["network"], fields)
        log_odds = offset[:, None] + factors @ arrays["heads"].T
        own = arrays["own"]
        if own is None:
            return log_odds
        return log_odds + layout.summed(own["table"], users, mean=network.averages)

    return jit(score)


def _each(functions: Sequence[Function], arrays: dict[str, Any], users: Array) -> list[Array]:
    return [function(arrays[str(n)], users) for n, function in enumerate(functions)]


@functools.lru_cache(PROGRAMS_KEPT)
def _weighted(functions: tuple[Function, ...], shares: tuple[float, ...]) -> Function:
    def score(arrays: dict[str, Any], users: Array) -> Array:
        pairs = zip(shares, _each(functions, arrays, users), strict=True)
        # No matrix product, which accelerators round.
        return sum((share * scores for share, scores in pairs), jnp.zeros(()))

    return jit(score)


@functools.lru_cache(PROGRAMS_KEPT)
def _beside(functions: tuple[Function, ...]) -> Function:
    def score(arrays: dict[str, Any], users: Array) -> Array:
        return jnp.concatenate(_each(functions, arrays, users), axis=1)[:, arrays["order"]]

    return jit(score)


@functools.lru_cache(PROGRAMS_KEPT)
def _after(function: Function, lengths: Lengths) -> Function:
    def score(arrays: dict[str, Any], users: Array) -> Array:
        return function(arrays, lengths(users))

    return jit(score)


def _with_rows(table: Array, adapted: AdaptedWeights) -> Array:
    """The general table (R, k) with the rows of a campaign: a copy if it has any."""
    if not len(adapted.rows):
        return table
    return pinned(_replaced(table, adapted.rows, adapted.values))


@jit
def _replaced(table: Array, rows: Array, values: Array) -> Array:
    return table.at[rows].set(values, mode="drop")


def value_weights(campaigns: Sequence[AdaptedWeights], num_rows: int) -> np.ndarray:
    """(R, C) the last column of the rows that are campaigns' own; zero where they have none."""
    weights = np.zeros((num_rows, len(campaigns)), np.float32)
    for number, (_, rows, values) in enumerate(campaigns):
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
      InputError: the number of slots of the users is wrong.
    """
    check_slots(users, num_slots)
    chunk, num_threads = profile().chunk, profile().num_concurrent_programs

    def apply(start: int) -> np.ndarray:
        rows = whole_chunk(users[start : start + chunk], chunk, num_rows)
        return np.asarray(function(rows))

    starts = range(0, max(len(users), 1), chunk)
    with closing(in_threads(apply, starts, num_threads=num_threads)) as results:
        return np.concatenate(list(results))[: len(users)]
