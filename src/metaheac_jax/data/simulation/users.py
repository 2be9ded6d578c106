"""Users of a simulated world: hidden personas, and the features that can be seen of them.

Axes: U users (of a chunk), D persona dimensions, T topics, S slots, V values of a field.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from metaheac_jax.data.simulation.shapes import PERSONA, List, Score, Shape, persona_weights

TOPICS = 24  # of each list field


class Tokens(NamedTuple):
    """How a list's values are drawn; values are ordered by topic, then popularity.

    Attributes:
      edges: (T + 1,) of the topics in the cumulative distribution of values.
      cumulative: (V,) distribution of values.
      topic: (V,) of each value.
      raw: (V,) raw value as the file has it; ``rank``: (V,) popularity, 0 the highest.
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
      lists: name -> (U, S) positions among a field's values, -1 where there is none.
      observed: (U, F) what conversion may depend on: one-hot fields, mean topics of lists.
    """

    persona: np.ndarray
    fields: dict[str, np.ndarray]
    lists: dict[str, np.ndarray]
    observed: np.ndarray


def make_tokens(spec: List, cardinality: float, rng: np.random.Generator) -> Tokens:
    """How the values of a list field are drawn; see `world.write_world` for ``cardinality``."""
    values = spec.values
    if values > 2000:
        values = max(1000, round(values * cardinality))
    known = [(10.0**i, share) for i, share in enumerate(spec.covered) if 10**i < values]
    at, share = np.array([*known, (values, 1.0)]).T
    covered = np.exp(np.interp(np.log(np.arange(1, values + 1)), np.log(at), np.log(share)))
    popularity = np.sort(np.diff(covered, prepend=0))[::-1]
    # Topics take turns, in random order, in picking values from the most popular on.
    turns = np.tile(np.arange(TOPICS), (-(-values // TOPICS), 1))
    topic = rng.permuted(turns, axis=1).ravel()[:values]
    order = np.argsort(topic, kind="stable")
    cumulative = np.cumsum(popularity[order]) / popularity.sum()
    ends = np.searchsorted(topic[order], np.arange(TOPICS), side="right")
    edges = np.concatenate([[0.0], np.concatenate([[0.0], cumulative])[ends]])
    pull = rng.standard_normal((len(PERSONA), TOPICS)) * persona_weights(spec.pull)[:, None]
    if np.any(pull):  # of one length, so that topics are about equally common
        pull *= np.linalg.norm(persona_weights(spec.pull)) / np.linalg.norm(pull, axis=0)
    raw = rng.permutation(values)[order] + 1
    return Tokens(edges, cumulative, topic[order], raw, order, pull.astype(np.float32))


def make_users(
    shape: Shape, tokens: dict[str, Tokens], count: int, rng: np.random.Generator
) -> Users:
    """So many users, drawn."""
    persona = rng.standard_normal((count, len(PERSONA)), dtype=np.float32)

    def score(spec: Score) -> np.ndarray:
        loading = persona_weights(spec.loadings)
        noise = np.sqrt(max(1 - loading @ loading, 0.0))
        return persona @ loading + noise * rng.standard_normal(count)

    fields = {n: np.searchsorted(_cuts(s.shares), score(s)) for n, s in shape.fields.items()}
    observed = [np.eye(len(shape.fields[n].shares), dtype=np.float32)[v] for n, v in fields.items()]
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
    tokens: Tokens, persona: np.ndarray, length: np.ndarray, slots: int, rng: np.random.Generator
) -> np.ndarray:
    """(U, S) positions of distinct values, -1 beyond a user's length."""
    mass = np.maximum(np.diff(tokens.edges), 1e-30).astype(np.float32)
    chance = np.exp(persona @ tokens.pull) * mass
    chance = np.cumsum(chance, axis=1)
    chance /= chance[:, -1:]

    def sample(user: np.ndarray) -> np.ndarray:
        at, dart = chance[user], rng.random(len(user), dtype=np.float32)
        topic = (at[:, :-1] < dart[:, None]).sum(1)
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
        rows = np.unique(user)
        part = drawn[rows]
        again = np.zeros(part.shape, bool)
        for late in range(1, slots):
            same = part[:, :late] == part[:, late : late + 1]
            again[:, late] = same.any(1) & (part[:, late] >= 0)
        row, slot = np.nonzero(again)
        user = rows[row]
    drawn[user, slot] = -1  # a value that found no distinct one in 30 draws is left out
    return drawn


def _cuts(shares: tuple[float, ...]) -> np.ndarray:
    """Thresholds of a standard normal that leave these shares between them."""
    inner = np.cumsum(shares)[:-1] / sum(shares)
    return np.array([NormalDist().inv_cdf(min(max(x, 1e-12), 1 - 1e-12)) for x in inner])
