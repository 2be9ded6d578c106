"""Scores of a pool of users.

Axes: P users of a pool, S slots of a user, N campaign fields, R rows of the table, C campaigns,
F factors of a solved head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from metaheac_jax.backend import at_a_time, in_threads, platform
from metaheac_jax.data.batches import check_ids, check_slots
from metaheac_jax.data.dataset import ComputedRows, UserRows
from metaheac_jax.data.history import Hidden
from metaheac_jax.data.list_lengths import Lengths
from metaheac_jax.model import AdaptedWeights, Scorer, Weights, with_own_parameters
from metaheac_jax.networks import Network
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.table.rows import pinned

#: Users that are scored at once: a thousand fit into the caches of a CPU, and 16 thousand keep what
#: they need on the chip of an accelerator.
CHUNK, ACCELERATOR_CHUNK = 1024, 1 << 14
_TOGETHER_BYTES = 1 << 30  # of the value weights of campaigns that are scored together


class PoolScorer:
    """Scores pools with general or adapted weights; build it once and use it for every model."""

    def __init__(self, network: Network, layout: Layout, *, chunk: int | None = None) -> None:
        """Args:
        network: network of the models.
        layout: layout of the users' ids.
        chunk: number of users scored at once. By default what the backend runs fastest.
        """
        if chunk is None:
            chunk = CHUNK if platform() == "cpu" else ACCELERATOR_CHUNK
        self.network, self.layout, self._chunk = network, layout, chunk
        self.score_chunk = score_chunk(network, layout)

    def __call__(self, weights: Weights, campaign: np.ndarray, users: UserRows) -> np.ndarray:
        """Log-odds that each user of a pool converts: (P,), with the dtype of the weights.

        Args:
          weights: the weights of a campaign, or the general ones.
          campaign: (N,) table rows of the campaign.
          users: (P, S) table rows of the users, read in chunks, so it may be a memory map.

        Raises:
          InputError: as `over_users`.
        """

        def score(part: np.ndarray) -> Array:
            return self.score_chunk(*weights, part, campaign)

        return self.over_users(score, users, len(weights.table))

    def over_users(
        self, function: Callable[[np.ndarray], Array], users: UserRows, num_rows: int
    ) -> np.ndarray:
        """Applies a function to all users, a chunk at a time, so that it compiles once.

        Several chunks are computed at a time, each in a thread.

        Args:
          function: maps (chunk, S) table rows to (chunk, ...), each row independently.
          users: (P, S) table rows of the users.
          num_rows: R, which pads the last chunk.

        Returns:
          (P, ...).

        Raises:
          InputError: an id is outside the table, or the number of slots of the users is wrong.
        """
        check_slots(users, self.layout.num_slots)

        def apply(start: int) -> np.ndarray:
            part = np.asarray(users[start : start + self._chunk])
            check_ids(part, num_rows, "the users' ids")
            missing = (0, self._chunk - len(part)), (0, 0)
            return np.asarray(function(np.pad(part, missing, constant_values=num_rows)))

        starts = range(0, max(len(users), 1), self._chunk)
        with closing(in_threads(apply, starts, num_threads=at_a_time())) as results:
            return np.concatenate(list(results))[: len(users)]


def score_chunk(network: Network, layout: Layout) -> Any:
    """Network parameters, table (R, k), users (P, S) and campaign (N,) -> (P,) log-odds, jitted."""

    @jax.jit
    def score(params: Any, table: Array, user: Array, campaign: Array) -> Array:
        return network.apply(params, *layout.inputs(table, Ids(user, campaign))).log_odds

    return score


class OwnRows:
    """A copy of a general table with the rows of one campaign at a time, for many campaigns.

    It is not for several threads.
    """

    def __init__(self, table: Array) -> None:
        """Args:
        table: (R, k) of the general model.
        """
        self._general, self._table, self._held = table, table, np.empty(0, np.int32)

    def holding(self, adapted: AdaptedWeights) -> Array:
        """The table with the rows of a campaign, until the next call; no copy if it has none."""
        if not len(adapted.rows):
            return self._general
        if adapted.rows is not self._held:
            if self._table is self._general:
                self._table = pinned(jnp.array(self._general))
            exchange, held = _exchange(cast(Any, self._table).format), self._held
            arguments = self._table, self._general, held, adapted.rows, adapted.values
            self._table, self._held = exchange(*arguments), adapted.rows
        return self._table


@functools.lru_cache(maxsize=8)
def _exchange(place: Any) -> Any:
    """Own table, general table, rows to restore, rows and values to set -> own table, in place."""

    @functools.partial(jax.jit, donate_argnums=0, out_shardings=place)
    def exchange(table: Array, general: Array, old: Array, rows: Array, values: Array) -> Array:
        table = table.at[old].set(general.at[old].get(mode="clip"), mode="drop")
        return table.at[rows].set(values, mode="drop")

    return exchange


@dataclass(frozen=True, eq=False)
class AdaptedScorer(Scorer):
    """The scorer of a customised network.

    Attributes:
      pool_scorer: scores with its network.
      weights: the general weights.
      adapted: the campaign's adapted weights.
      campaign: (N,) table rows of the campaign.
      lengths: adds list lengths to users; None if the network has no fields for them.
      own_rows: puts the adapted rows into a table, which campaigns share; None copies the table in
        every call.
    """

    pool_scorer: PoolScorer
    weights: Weights
    adapted: AdaptedWeights
    campaign: np.ndarray
    lengths: Lengths | None = None
    own_rows: OwnRows | None = None

    def __call__(self, users: UserRows, /) -> np.ndarray:
        """(P, S) table rows of users -> (P,) log-odds that each converts."""
        return self.pool_scorer(self.own_weights, self.campaign, self.lengthened(users))

    @property
    def own_weights(self) -> Weights:
        """The weights with the campaign's own."""
        network, table = self.weights
        own_rows = self.own_rows or OwnRows(table)
        own = with_own_parameters(network, self.adapted.network)
        return Weights(own, own_rows.holding(self.adapted))

    def lengthened(self, users: UserRows) -> UserRows:
        """Users as the network takes them, with list lengths if it has fields for them."""
        return users if self.lengths is None else self.lengths.rows(users)

    def sharing(self, tables: dict[int, Any]) -> AdaptedScorer:
        """See `Scorer.sharing`."""
        table = self.weights.table
        return replace(self, own_rows=tables.setdefault(id(table), OwnRows(table)))

    def on_chunks(self, group: Sequence[AdaptedScorer]) -> Callable[[Array], Array]:
        """See `Scorer.on_chunks`."""

        def score(users: Array) -> Array:
            return jnp.stack([own._on_chunk(users) for own in group])

        return score

    def _on_chunk(self, users: Array) -> Array:
        users = users if self.lengths is None else self.lengths.users(users)
        return self.pool_scorer.score_chunk(*self.own_weights, users, self.campaign)

    def on_device(self, device: jax.Device, moved: dict[Any, Any]) -> AdaptedScorer:
        """See `Scorer.on_device`; general weights are moved once, so scorers still share them."""
        key = id(self.weights.network), id(self.weights.table)
        if key not in moved:
            network, table = jax.device_put(self.weights, device)
            moved[key] = Weights(network, pinned(table))
        adapted = jax.device_put(self.adapted, device)
        return replace(self, weights=moved[key], adapted=adapted)

    def program(self) -> tuple[dict[str, Any], Callable[..., Array]]:
        """See `Scorer.program`."""
        table, (own, rows, values) = np.array(self.weights.table), self.adapted
        table[rows[rows < len(table)]] = np.asarray(values)[rows < len(table)]
        params = flatten_dict(with_own_parameters(self.weights.network, own), sep="/")
        weights = {f"network/{path}": np.asarray(array) for path, array in params.items()}
        network, layout = self.pool_scorer.network, self.pool_scorer.layout
        campaign, lengths = np.asarray(self.campaign), self.lengths

        def score(weights: dict[str, Array], users: Array) -> Array:
            params = unflatten_dict(weights, sep="/")["network"]
            users = users if lengths is None else lengths.users(users)
            inputs = layout.inputs(weights["table"], Ids(users, campaign))
            return network.apply(params, *inputs).log_odds

        return {"table": table, **weights}, score


class HeadScorer(AdaptedScorer):
    """The scorer of a solved head; many are scored together by one pass of their tower."""

    @property
    def group(self) -> Hashable | None:
        """The tower: that of a general model."""
        return self.pool_scorer, id(self.weights.table), self.lengths

    def together(self, group: Sequence[HeadScorer]) -> Callable[[UserRows], np.ndarray]:
        """See `Scorer.together`; the tower's factors are computed once, heads are one matrix."""
        score, pool, num_rows = self._joint(group), self.pool_scorer, len(self.weights.table)
        return lambda users: pool.over_users(score, self.lengthened(users), num_rows).T

    def on_chunks(self, group: Sequence[AdaptedScorer]) -> Callable[[Array], Array]:
        """See `Scorer.on_chunks`."""
        if len(group) == 1:
            return super().on_chunks(group)
        score, lengths = self._joint(group), self.lengths
        return lambda users: score(users if lengths is None else lengths.users(users)).T

    def _joint(self, group: Sequence[AdaptedScorer]) -> Callable[[Any], Array]:
        """Scores a chunk of users: (P, S) -> (P, C)."""
        size = max(1, _TOGETHER_BYTES // (4 * len(self.weights.table)))
        parts = [_score_heads(group[first : first + size]) for first in range(0, len(group), size)]
        if len(parts) == 1:
            return parts[0]
        return lambda users: jnp.concatenate([part(users) for part in parts], axis=1)


@dataclass(frozen=True, eq=False)
class SumScorer(Scorer):
    """The scorer of a weighted sum of the log-odds of other scorers.

    Attributes:
      members: E scorers.
      shares: the E weights.
    """

    members: tuple[Scorer, ...]
    shares: tuple[float, ...]

    def __call__(self, users: UserRows, /) -> np.ndarray:
        """(P, S) table rows of users -> (P,) log-odds that each converts."""
        return self._sum([scorer(users) for scorer in self.members])

    def _sum(self, scores: Sequence[Any]) -> Any:
        # No matrix product, which accelerators round.
        return sum(share * own for share, own in zip(self.shares, scores, strict=True))

    @property
    def group(self) -> Hashable | None:
        """The shares."""
        return type(self), self.shares

    def together(self, group: Sequence[SumScorer]) -> Callable[[UserRows], np.ndarray]:
        """See `Scorer.together`; each member scores for all campaigns."""
        parts = [score_many(own) for own in zip(*(of.members for of in group), strict=True)]
        return lambda users: self._sum([part(users) for part in parts])

    def on_chunks(self, group: Sequence[SumScorer]) -> Callable[[Array], Array] | None:
        """See `Scorer.on_chunks`."""
        parts = [on_chunks(own) for own in zip(*(of.members for of in group), strict=True)]
        scored = [own for own in parts if own is not None]
        if len(scored) < len(parts):
            return None
        return lambda users: self._sum([own(users) for own in scored])

    def sharing(self, tables: dict[int, Any]) -> SumScorer:
        """See `Scorer.sharing`."""
        return replace(self, members=tuple(own.sharing(tables) for own in self.members))

    def on_device(self, device: jax.Device, moved: dict[Any, Any]) -> SumScorer:
        """See `Scorer.on_device`."""
        return replace(self, members=tuple(own.on_device(device, moved) for own in self.members))

    def program(self) -> tuple[dict[str, Any], Callable[..., Array]] | None:
        """See `Scorer.program`."""
        if (joint := self.joint_program([self])) is None:
            return None
        weights, score = joint
        return weights, lambda weights, users: score(weights, users)[:, 0]

    def joint_program(
        self, group: Sequence[SumScorer]
    ) -> tuple[dict[str, Any], Callable[..., Array]] | None:
        """The program of C scorers with these shares; see the function `joint_program`."""
        joint = _numbered(map(joint_program, zip(*(of.members for of in group), strict=True)))
        if joint is None:
            return None
        weights, each = joint
        return weights, lambda weights, users: self._sum(each(weights, users))


@dataclass(frozen=True, eq=False)
class HiddenScorer(Scorer):
    """The scorer of users without a part of their histories.

    Attributes:
      scorer: scores them.
      hidden: what is left out.
    """

    scorer: Scorer
    hidden: Hidden

    def __post_init__(self) -> None:
        object.__setattr__(self, "log_odds", self.scorer.log_odds)

    def __call__(self, users: UserRows, /) -> np.ndarray:
        """(P, S) table rows of users -> (P,) scores."""
        return self.scorer(ComputedRows(users, self.hidden, users.shape[1]))

    @property
    def group(self) -> Hashable | None:
        """The scorer's, if the same is left out."""
        own = self.scorer.group
        return None if own is None else (self.hidden.rows.tobytes(), own)

    def together(self, group: Sequence[HiddenScorer]) -> Callable[[UserRows], np.ndarray]:
        """See `Scorer.together`."""
        score = self.scorer.together([own.scorer for own in group])
        return lambda users: score(ComputedRows(users, self.hidden, users.shape[1]))

    def on_chunks(self, group: Sequence[HiddenScorer]) -> Callable[[Array], Array] | None:
        """See `Scorer.on_chunks`."""
        score = self.scorer.on_chunks([own.scorer for own in group])
        return None if score is None else lambda users: score(self.hidden(users))

    def sharing(self, tables: dict[int, Any]) -> HiddenScorer:
        """See `Scorer.sharing`."""
        return replace(self, scorer=self.scorer.sharing(tables))

    def on_device(self, device: jax.Device, moved: dict[Any, Any]) -> HiddenScorer:
        """See `Scorer.on_device`."""
        return replace(self, scorer=self.scorer.on_device(device, moved))

    def program(self) -> tuple[dict[str, Any], Callable[..., Array]] | None:
        """See `Scorer.program`."""
        if (own := self.scorer.program()) is None:
            return None
        weights, score = own
        return weights, lambda weights, users: score(weights, self.hidden(users))


def without_hidden(scorer: Scorer, hidden: Hidden | None) -> Scorer:
    """The scorer, of users without what is hidden; the same if nothing is."""
    return scorer if hidden is None else HiddenScorer(scorer, hidden)


def score_many(scorers: Sequence[Scorer]) -> Callable[[UserRows], np.ndarray]:
    """Builds a function that scores users with the models of C campaigns: (P, S) -> (C, P).

    Scorers of one group are scored together, other models one after another, all with one copy of
    their general table.
    """
    tables = dict[int, Any]()
    shared = [scorer.sharing(tables) for scorer in scorers]
    if len(shared) == 1:
        return lambda users: shared[0](users)[None]
    groups = _groups(shared)
    parts = [own[0].together(own) for own in groups.values()]
    return _in_order(groups, parts, np.concatenate)


def on_chunks(scorers: Sequence[Scorer]) -> Callable[[Array], Array] | None:
    """`score_many` for a chunk of users on a device, (P, S) -> (C, P); None where it cannot be."""
    tables = dict[int, Any]()
    groups = _groups([scorer.sharing(tables) for scorer in scorers])
    parts = [own[0].on_chunks(own) for own in groups.values()]
    programs = [own for own in parts if own is not None]
    return _in_order(groups, programs, jnp.concatenate) if len(programs) == len(parts) else None


def _groups(scorers: Sequence[Scorer]) -> dict[tuple[int, ...], list[Scorer]]:
    """Scorers that are scored together, by their positions."""
    numbers: dict[Hashable, list[int]] = {}
    for number, scorer in enumerate(scorers):
        numbers.setdefault(number if scorer.group is None else scorer.group, []).append(number)
    return {tuple(own): [scorers[number] for number in own] for own in numbers.values()}


def _in_order(
    groups: dict[tuple[int, ...], Any], parts: Sequence[Callable[[Any], Any]], join: Any
) -> Callable[[Any], Any]:
    """Joins the (C', P) results of all groups, in the order of their scorers."""
    order = np.argsort(np.concatenate(list(groups)))
    return lambda users: join([part(users) for part in parts])[order]


def joint_program(scorers: Sequence[Scorer]) -> tuple[dict[str, Any], Callable[..., Array]] | None:
    """The program of C scorers: weights, and ``score(weights, users)``, (P, S) -> (P, C).

    The weights are a dictionary of arrays. None if the scores come from no program of jax.
    """
    first = scorers[0]
    if isinstance(first, HeadScorer) and all(own.group == first.group for own in scorers):
        return _program_of_heads([own for own in scorers if isinstance(own, HeadScorer)])
    if isinstance(first, SumScorer) and all(own.group == first.group for own in scorers):
        return first.joint_program([own for own in scorers if isinstance(own, SumScorer)])
    joint = _numbered(own.program() for own in scorers)
    if joint is None:
        return None
    weights, each = joint
    return weights, lambda weights, users: jnp.stack(each(weights, users), axis=1)


def _numbered(
    programs: Iterable[tuple[dict[str, Any], Callable[..., Array]] | None],
) -> tuple[dict[str, Any], Callable[..., list[Array]]] | None:
    """The weights of all programs, under their numbers, and their results; None if one is None."""
    parts = list[tuple[dict[str, Any], Callable[..., Array]]]()
    for own in programs:
        if own is None:
            return None
        parts.append(own)
    weights = {f"{n}/{path}": a for n, (own, _) in enumerate(parts) for path, a in own.items()}

    def each(weights: dict[str, Array], users: Array) -> list[Array]:
        of_each = unflatten_dict({tuple(path.split("/", 1)): a for path, a in weights.items()})
        return [score(of_each[str(n)], users) for n, (_, score) in enumerate(parts)]

    return weights, each


def _program_of_heads(
    scorers: Sequence[HeadScorer],
) -> tuple[dict[str, Any], Callable[..., Array]]:
    first, (heads, value_weights) = scorers[0], _stacked(scorers)
    pool, lengths = first.pool_scorer, first.lengths
    params = flatten_dict(first.weights.network, sep="/")
    weights = {f"network/{path}": np.asarray(array) for path, array in params.items()}
    weights |= {"table": np.asarray(first.weights.table), "heads": heads}
    weights |= {} if value_weights is None else {"value_weights": value_weights}
    score_chunk = compiled_heads(pool.network, pool.layout)

    def score(weights: dict[str, Array], users: Array) -> Array:
        network = unflatten_dict(weights, sep="/")["network"]
        general = Weights(network, weights["table"])
        users = users if lengths is None else lengths.users(users)
        return score_chunk(general, weights["heads"], weights.get("value_weights"), users)

    return weights, score


def _stacked(scorers: Sequence[AdaptedScorer]) -> tuple[np.ndarray, np.ndarray | None]:
    """The heads (C, F), and value weights (R, C); None if no scorer has any."""
    num_rows = len(scorers[0].weights.table)
    heads = np.stack(jax.device_get([own.adapted.network["head"] for own in scorers]))
    if not any(len(own.adapted.rows) for own in scorers):
        return heads, None
    value_weights = np.zeros((num_rows, len(scorers)), np.float32)
    for number, (_, rows, values) in enumerate(own.adapted for own in scorers):
        real = rows < num_rows
        value_weights[rows[real], number] = np.asarray(values)[real, -1]
    return heads, value_weights


def _score_heads(scorers: Sequence[AdaptedScorer]) -> Callable[[Any], Array]:
    """Scores a chunk of users with C heads: (P, S) -> (P, C)."""
    pool, weights = scorers[0].pool_scorer, scorers[0].weights
    # On the device of the general weights, which need not be the default one.
    heads, value_weights = jax.device_put(_stacked(scorers), *weights.table.devices())
    value_weights = None if value_weights is None else pinned(value_weights)
    score_chunk = compiled_heads(pool.network, pool.layout)
    return functools.partial(score_chunk, weights, heads, value_weights)


@functools.lru_cache(maxsize=8)  # a bound, so that networks do not live for ever
def compiled_heads(network: Any, layout: Layout) -> Any:
    """General weights, heads (C, F), value weights (R, C) or None, users (P, S) -> (P, C)."""

    @jax.jit
    def score(weights: Weights, heads: Array, value_weights: Array | None, users: Array) -> Array:
        fields = layout.users(weights.table, users)
        offset, factors = network.offset_and_factors(weights.network, fields)
        log_odds = offset[:, None] + factors @ heads.T
        if value_weights is None:
            return log_odds
        return log_odds + layout.summed(value_weights, users)

    return score
