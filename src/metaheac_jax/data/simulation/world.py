"""Writes a simulated world in the competition's format.

Axes: U users (of a chunk), C campaigns, E examples, D persona dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from metaheac_jax.data.simulation.campaigns import Campaigns, expected_examples, make_campaigns
from metaheac_jax.data.simulation.conversions import (
    Truth,
    draw_labels,
    find_intercepts,
    find_scale,
    linear_and_pairwise,
    sigmoid,
)
from metaheac_jax.data.simulation.exposure import appeal, balance_exposure, expose
from metaheac_jax.data.simulation.shapes import PAIRS, PERSONA, TENCENT_WORLD, Shape
from metaheac_jax.data.simulation.users import TokenDistribution, Users, make_tokens, make_users
from metaheac_jax.errors import InputError
from metaheac_jax.files import list_files, new_array, new_directory
from metaheac_jax.progress import Progress, silent

#: Version of the recipe, increased whenever the same arguments give another world. The names of
#: caches contain it.
RECIPE = 2
#: Lists the files of a world's folder.
MANIFEST, FORMAT = "world.json", "metaheac_jax world 1"
CHUNK = 50_000  # users held in memory at a time
ORDERS = 8  # number of orders of the named fields within a chunk of lines

#: Features of the competition's files that the model does not use; a reader must skip them.
UNUSED = {
    "marriageStatus": ("11", "10", "13 15", "5 13", "2"),
    "os": ("1", "2", "1 2"),
    "ct": ("1", "3 1", "4 2 3 1", "3 4"),
}


def write_world(
    target: Path,
    *,
    users: int = 1_000_000,
    examples: int | None = None,
    cardinality: float = 0.1,
    min_pool_examples: int = 1500,
    seed: int = 0,
    shape: Shape = TENCENT_WORLD,
    progress: Progress = silent,
) -> None:
    """Writes a simulated world in the competition's format, completely or not at all.

    Files: ``adFeature.csv``, ``userFeature.data``, ``train.csv`` (stage 1) and ``test1_truth.csv``
    (stage 2, positives first); ``train_probability.npy`` and ``test1_truth_probability.npy``
    (float32, the true conversion probability of each data line); ``truth.npz`` (see `read_truth`);
    ``SIMULATED`` (one line); and `MANIFEST`. All processors write the same bytes, up to rounding of
    probabilities.

    Args:
      target: a directory; an existing one is replaced if it is a simulated world.
      users: number of users.
      examples: approximate number of examples in both stages together; by default 0.8 per user.
      cardinality: size of the large vocabularies (kw1, kw2, topic1, topic2) as a fraction of their
        real size, with at least 1,000 values each. The recipes are set for 0.1.
      min_pool_examples: approximate minimum number of examples of each campaign in stage 2.
      seed: random seed of all draws.
      shape: the world's recipe.
      progress: receives the number of users done, then the steps that follow.

    Raises:
      InputError: an argument is out of range, the examples are too few for ``min_pool_examples`` or
        too many for the users, or the target exists and is not a simulated world.
    """
    _check_arguments(users, seed, min_pool_examples, cardinality)
    campaigns, quotas = _planned(users, examples, min_pool_examples, seed, shape)
    tokens = {n: make_tokens(s, cardinality, stream(seed, n)) for n, s in shape.lists.items()}
    key = np.cumsum(stream(seed, "keys").integers(1, 8, users))

    # A sample of users outside the world is used to balance exposure and to estimate z linearly.
    sample = make_users(shape, tokens, 20_000, stream(seed, "sample"))
    estimate = np.linalg.lstsq(sample.observed.astype(float), sample.persona, rcond=None)[0]
    estimate /= (sample.observed @ estimate).std(0)
    weights, even = np.exp(appeal(campaigns, sample)), np.ones(shape.campaigns)
    balance = [balance_exposure(weights, quota, even, rounds=50) for quota in quotas]

    directions = stream(seed, "pairs").standard_normal((2, len(PERSONA), PAIRS))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    drawn: list[list[np.ndarray]] = [[], []]
    affinities: list[list[np.ndarray]] = [[], []]
    shown = np.zeros((2, shape.campaigns))
    with new_directory(target, marker=MANIFEST) as directory:
        scratch = directory / "estimates.npy"
        estimates = new_array(scratch, np.float32, (users, len(PERSONA)))
        with (directory / "userFeature.data").open("wb") as file:
            for start in range(0, users, CHUNK):
                rng, stop = stream(seed, "users", start), min(start + CHUNK, users)
                chunk = make_users(shape, tokens, stop - start, rng)
                estimates[start:stop] = chunk.observed @ estimate
                weights = np.exp(appeal(campaigns, chunk))
                for stage, quota in enumerate(quotas):
                    # Targets follow the cumulative quota, so that random errors do not accumulate.
                    least = 0.1 * quota * CHUNK / users
                    due = np.maximum(quota * stop / users - shown[stage], least)
                    balance[stage] = balance_exposure(weights, due, balance[stage], rounds=3)
                    occur = quota.sum() / shape.examples_per_user / users
                    pairs = expose(weights * balance[stage], occur, shape.examples_per_user, rng)
                    weights[pairs[0], pairs[1]] = 0  # not shown again in the next stage
                    shown[stage] += np.bincount(pairs[1], minlength=shape.campaigns)
                    pairs[0] += start
                    terms = linear_and_pairwise(estimates[pairs[0]], directions)
                    affinity = np.einsum("et,te->e", terms, campaigns.taste[:, pairs[1]])
                    affinities[stage].append(affinity)
                    drawn[stage].append(pairs.astype(np.int32))
                file.write(_lines(shape, chunk, tokens, key[start:stop], rng))
                progress("simulating users", stop, users)
        parts = (drawn, affinities)
        _finish(directory, shape, campaigns, key, estimates, directions, *parts, seed, progress)
        scratch.unlink()
        list_files(directory, MANIFEST, FORMAT)


def count_examples(
    *,
    users: int,
    examples: int | None = None,
    min_pool_examples: int = 1500,
    seed: int = 0,
    shape: Shape = TENCENT_WORLD,
) -> tuple[int, int]:
    """The approximate numbers of examples in stage 1 and stage 2 of a world by `write_world`.

    Raises:
      InputError: as `write_world` does.
    """
    _check_arguments(users, seed, min_pool_examples, 1.0)
    _, (stage1, stage2) = _planned(users, examples, min_pool_examples, seed, shape)
    return int(stage1.sum()), int(stage2.sum())


def _planned(
    users: int, examples: int | None, min_pool_examples: int, seed: int, shape: Shape
) -> tuple[Campaigns, tuple[np.ndarray, np.ndarray]]:
    """The campaigns of a world, and (C,) expected numbers of examples in each stage."""
    total = int(0.8 * users) if examples is None else examples
    campaigns = make_campaigns(shape, stream(seed, "campaigns"))
    return campaigns, expected_examples(shape, campaigns.volume, users, total, min_pool_examples)


def _check_arguments(users: int, seed: int, min_pool_examples: int, cardinality: float) -> None:
    if users < 1 or seed < 0 or min_pool_examples < 0 or not 0 < cardinality <= 1:
        raise InputError(
            "simulated world: expected users >= 1, seed >= 0, pool examples >= 0 and a cardinality "
            f"in (0, 1], got {users}, {seed}, {min_pool_examples} and {cardinality}"
        )


def _finish(
    directory: Path,
    shape: Shape,
    campaigns: Campaigns,
    key: np.ndarray,
    estimates: np.ndarray,
    directions: np.ndarray,
    drawn: list[list[np.ndarray]],
    affinities: list[list[np.ndarray]],
    seed: int,
    progress: Progress,
) -> None:
    """Writes everything but the users: examples, truth, campaigns and the world's name.

    Args:
      directory: the world's directory.
      shape: the world's recipe.
      campaigns: the world's campaigns.
      key: (U,) uids.
      estimates: (U, D) estimates of the users' personas.
      directions: (2, D, PAIRS) directions of the pairwise terms.
      drawn: per stage and chunk, the users and campaigns of the examples.
      affinities: per stage and chunk, the affinities of the examples.
      seed: random seed of labels and orders.
      progress: receives what is being done.
    """
    stages = [
        (*np.concatenate(pairs, axis=1), np.concatenate(terms))
        for pairs, terms in zip(drawn, affinities, strict=True)
    ]
    scale, intercept = _write_examples(directory, shape, campaigns, key, stages, seed, progress)
    progress("writing the truth", 0, 1)
    aid, taste = campaigns.attributes["aid"], scale * campaigns.taste
    truth = Truth(key, aid, estimates, directions, taste, intercept)
    np.savez(directory / "truth.npz", **truth._asdict())
    pl.DataFrame(campaigns.attributes).write_csv(directory / "adFeature.csv")
    name = f"simulated {shape.name} twin (seed {seed}, {len(key):,} users)\n"
    (directory / "SIMULATED").write_text(name)


def _lines(
    shape: Shape,
    users: Users,
    tokens: dict[str, TokenDistribution],
    key: np.ndarray,
    rng: np.random.Generator,
) -> bytes:
    """Lines of userFeature.data for a chunk, shuffled; the order of fields varies."""
    columns: dict[str, np.ndarray | pl.Series] = {"uid": key}
    named: dict[str, pl.Expr] = {}
    for name, value in users.fields.items():
        codes = shape.fields[name].codes
        columns[name] = np.array(codes)[value] if codes else value
        text = pl.format(name + " {}", pl.col(name))
        named[name] = pl.when(pl.col(name) > 0).then(text) if name == "house" else text
    for name, drawn in users.lists.items():
        slots = [f"{name}.{slot}" for slot in range(drawn.shape[1])]
        raw = np.where(drawn < 0, 0, tokens[name].raw[drawn])
        columns.update(zip(slots, raw.T, strict=True))
        present = [pl.when(pl.col(slot) > 0).then(pl.col(slot)) for slot in slots]
        text = pl.concat_str(pl.lit(name), *present, separator=" ", ignore_nulls=True)
        named[name] = pl.when(pl.max_horizontal(slots) > 0).then(text)
    for name, texts in UNUSED.items():
        columns[name] = pl.Series(texts).gather(rng.integers(len(texts), size=len(key)))
        named[name] = pl.format(name + " {}", pl.col(name))
    frame = pl.DataFrame(columns)
    lines = []
    bounds = [len(key) * i // ORDERS for i in range(ORDERS + 1)]
    for start, stop in pairwise(bounds):
        order = [named[name] for name in rng.permutation(list(named))]
        uid = pl.format("uid {}", pl.col("uid"))
        line = pl.concat_str(uid, *order, separator="|", ignore_nulls=True).alias("line")
        lines.append(frame[start:stop].select(line))
    shuffled = pl.concat(lines)[rng.permutation(len(key))]
    return shuffled.write_csv(include_header=False, quote_style="never").encode()


def _write_examples(
    directory: Path,
    shape: Shape,
    campaigns: Campaigns,
    key: np.ndarray,
    stages: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    seed: int,
    progress: Progress,
) -> tuple[float, np.ndarray]:
    """Writes train.csv, test1_truth.csv and the true probabilities of their lines.

    Args:
      directory: where to write.
      shape: the world's recipe.
      campaigns: the world's campaigns.
      key: (U,) uids.
      stages: per stage, (E,) users, campaigns and affinities.
      seed: random seed of labels and orders.
      progress: receives what is being done.

    Returns:
      The common factor of the affinities and each campaign's intercept (C,), for the log-odds.
    """
    _, campaign, affinity = stages[0]
    scale = find_scale(affinity, campaign, campaigns.rate, shape.auc, progress)
    intercept = find_intercepts(scale * affinity, campaign, campaigns.rate)
    for name, (user, campaign, affinity) in zip(("train", "test1_truth"), stages, strict=True):
        progress(f"writing {name}.csv", 0, len(user))
        rng = stream(seed, name)
        probability = sigmoid(scale * affinity + intercept[campaign])
        label = draw_labels(probability, campaign, rng)
        order = rng.permutation(len(user))
        if name == "test1_truth":
            order = order[np.argsort(-label[order], kind="stable")]
        table = pl.DataFrame(
            {
                "aid": campaigns.attributes["aid"][campaign[order]],
                "uid": key[user[order]],
                "label": label[order],
            }
        )
        table.write_csv(directory / f"{name}.csv", include_header=name == "train")
        np.save(directory / f"{name}_probability.npy", probability[order].astype(np.float32))
    return scale, intercept


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A random stream per purpose, so that a change to one does not affect the others."""
    entropy = [seed, *purpose.encode(), *numbers]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
