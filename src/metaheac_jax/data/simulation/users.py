"""Users of a simulated world: hidden personas and observed features.

Draws are decided in float64. Processors round differently; in float32 a draw could differ between
them, and all later draws with it.

Axes: U users (of a chunk), D persona dimensions, T topics, S slots,
V values of a field, F observed features.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from metaheac_jax.data.simulation.shapes import PERSONA, List, Score, Shape, persona_weights

TOPICS = 24  # per list field


class TokenDistribution(NamedTuple):
    """The distribution of a list's values, which are ordered by topic, then popularity.

    Attributes:
      edges: (T + 1,) bounds of the topics in the cumulative distribution of values.
      cumulative: (V,) distribution of values.
      topic: (V,) topic of each value.
      raw: (V,) raw value in the table; ``rank``: (V,) rank by popularity, 0 is the most popular.
      pull: (D, T) topic logits per unit of persona.
    """

    edges: np.ndarray
    cumulative: np.ndarray
    topic: np.ndarray
    raw: np.ndarray
    rank: np.ndarray
    pull: np.ndarray


class Users(NamedTuple):
    """A chunk of users.

    Attributes:
      persona: (U, D) z, hidden.
      fields: name -> (U,) outcome of a one-valued field.
      lists: name -> (U, S) positions among a field's values, -1 in empty slots.
      observed: (U, F) inputs of the conversion model: one-hot fields and mean topics of lists.
    """

    persona: np.ndarray
    fields: dict[str, np.ndarray]
    lists: dict[str, np.ndarray]
    observed: np.ndarray


def make_tokens(spec: List, cardinality: float, rng: np.random.Generator) -> TokenDistribution:
    """The distribution of a list field's values; see `world.write_world` for ``cardinality``."""
    values = spec.values
    if values > 2000:
        values = max(1000, round(values * cardinality))
    known = [(10.0**i, chance) for i, chance in enumerate(spec.covered) if 10**i < values]
    rank, chance = np.array([*known, (values, 1.0)]).T
    covered = np.exp(np.interp(np.log(np.arange(1, values + 1)), np.log(rank), np.log(chance)))
    popularity = np.sort(np.diff(covered, prepend=0))[::-1]
    # Topics take turns in random order; each turn takes the most popular remaining value.
    turns = np.tile(np.arange(TOPICS), (-(-values // TOPICS), 1))
    topic = rng.permuted(turns, axis=1).ravel()[:values]
    order = np.argsort(topic, kind="stable")
    cumulative = np.cumsum(popularity[order]) / popularity.sum()
    ends = np.searchsorted(topic[order], np.arange(TOPICS), side="right")
    edges = np.concatenate([[0.0], np.concatenate([[0.0], cumulative])[ends]])
    pull = rng.standard_normal((len(PERSONA), TOPICS)) * persona_weights(spec.pull)[:, None]
    if np.any(pull):  # columns of equal length make topics about equally frequent
        pull *= np.linalg.norm(persona_weights(spec.pull)) / np.linalg.norm(pull, axis=0)
    raw = rng.permutation(values)[order] + 1
    return TokenDistribution(edges, cumulative, topic[order], raw, order, pull)


def make_users(
    shape: Shape, tokens: dict[str, TokenDistribution], count: int, rng: np.random.Generator
) -> Users:
    """Draws ``count`` users."""
    persona = rng.standard_normal((count, len(PERSONA)))

    def score(spec: Score) -> np.ndarray:
        loading = persona_weights(spec.loadings)
        noise = np.sqrt(max(1 - loading @ loading, 0.0))
        return persona @ loading + noise * rng.standard_normal(count)

    fields = {n: np.searchsorted(_cuts(s.fractions), score(s)) for n, s in shape.fields.items()}
    observed = [
        np.eye(len(shape.fields[n].fractions), dtype=np.float32)[v] for n, v in fields.items()
    ]
    sources = {name: score(spec) for name, spec in shape.sources.items()}
    lists = {}
    for name, spec in shape.lists.items():
        length = np.searchsorted(_cuts(spec.lengths), sources[spec.source])
        drawn = _draw(tokens[name], persona, length, len(spec.lengths) - 1, rng)
        if spec.popular_first:
            rank = np.where(drawn < 0, len(tokens[name].rank), tokens[name].rank[drawn])
            drawn = np.take_along_axis(drawn, np.argsort(rank, axis=1, kind="stable"), 1)
        lists[name] = drawn
        user, slot = np.nonzero(drawn >= 0)
        topic = tokens[name].topic[drawn[user, slot]]
        counts = np.bincount(user * TOPICS + topic, minlength=count * TOPICS)
        counts = counts.reshape(count, TOPICS).astype(np.float32)
        observed.append(counts / np.maximum(counts.sum(1, keepdims=True), 1))
    return Users(persona, fields, lists, np.concatenate(observed, axis=1))


def _draw(
    tokens: TokenDistribution,
    persona: np.ndarray,
    length: np.ndarray,
    slots: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """(U, S) positions of distinct values, -1 beyond a user's length.

    A value with no distinct replacement after 30 draws is omitted.
    """
    mass = np.maximum(np.diff(tokens.edges), 1e-30)
    chance = np.exp(persona @ tokens.pull) * mass
    chance = np.cumsum(chance, axis=1)
    chance /= chance[:, -1:]

    def sample(user: np.ndarray) -> np.ndarray:
        cumulative, dart = chance[user], rng.random(len(user))
        topic = (cumulative[:, :-1] < dart[:, None]).sum(1)
        low, high = tokens.edges[topic], tokens.edges[topic + 1]
        position = low + rng.random(len(user)) * (high - low)
        return np.searchsorted(tokens.cumulative, position, side="right").clip(
            max=len(tokens.cumulative) - 1
        )

    drawn = np.full((len(length), slots), -1, np.int64)
    user, slot = np.nonzero(np.arange(slots) < length[:, None])
    for _ in range(30):
        if not len(user):
            break
        drawn[user, slot] = sample(user)
        redrawn = np.unique(user)
        values = drawn[redrawn]
        repeated = np.zeros(values.shape, bool)
        for late in range(1, slots):
            equal = values[:, :late] == values[:, late : late + 1]
            repeated[:, late] = equal.any(1) & (values[:, late] >= 0)
        index, slot = np.nonzero(repeated)
        user = redrawn[index]
    drawn[user, slot] = -1
    return drawn


def _cuts(fractions: tuple[float, ...]) -> np.ndarray:
    """Thresholds of a standard normal variable that divide it into these fractions."""
    inner = np.cumsum(fractions)[:-1] / sum(fractions)
    return np.array([NormalDist().inv_cdf(min(max(x, 1e-12), 1 - 1e-12)) for x in inner])
