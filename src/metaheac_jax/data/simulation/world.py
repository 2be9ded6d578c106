"""Writes a simulated world as tables.

    users.parquet       user_id and the user fields of `TENCENT`; a row group per block of users
    campaigns.parquet   campaign_id and the campaign fields of `TENCENT`
    examples.parquet    campaign_id, user_id, label, stage, and the true probability
    schema.json         names these fields
    new/                campaigns.csv and examples.csv: campaigns that no table has, and their seeds
    truth.npz           by which the world answers, see `truth`
    SIMULATED           the world's name
    world.json          the recipe, its options, and the files with their digests

Ids and values are whole numbers. A missing value is null, and a missing list is empty.

Axes: U users (of a chunk), C campaigns, E examples, D persona dimensions.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from metaheac_jax.data.simulation.population import (
    TokenDistribution,
    Users,
    appeal,
    balance_exposure,
    expected_examples,
    expose,
    make_campaigns,
    make_tokens,
    make_users,
)
from metaheac_jax.data.simulation.shapes import (
    FIELDS,
    LISTS,
    PAIRS,
    PERSONA,
    TENCENT_WORLD,
    Shape,
)
from metaheac_jax.data.simulation.truth import (
    FORMAT,
    MANIFEST,
    TRUTH,
    Truth,
    draw_labels,
    find_intercepts,
    find_scale,
    linear_and_pairwise,
    sigmoid,
    stream,
)
from metaheac_jax.files import new_directory, write_json
from metaheac_jax.progress import Progress, silent
from metaheac_jax.removing import NEW, beside, remove
from metaheac_jax.schema import TENCENT
from metaheac_jax.sealed import seal

CHUNK = 50_000  # users held in memory at a time
#: Maximum number of seeds of a new campaign: users are tried in a random order until so many have
#: converted.
MAX_NEW_SEEDS = 300


def write_world(
    target: Path,
    *,
    users: int = 1_000_000,
    examples: int | None = None,
    cardinality: float = 0.1,
    min_pool_examples: int = 1500,
    new_campaigns: int = 0,
    seed: int = 0,
    shape: Shape = TENCENT_WORLD,
    progress: Progress = silent,
) -> None:
    """Writes a simulated world, completely or not at all.

    All processors write the same tables, up to rounding of probabilities.

    Args:
      target: a directory; an existing one is replaced if it is a simulated world.
      users: number of users.
      examples: approximate number of examples in both stages together; by default 0.8 per user.
      cardinality: size of the large vocabularies (kw1, kw2, topic1, topic2) as a fraction of their
        real size, with at least 1,000 values each. The recipes are set for 0.1.
      min_pool_examples: approximate minimum number of examples of each campaign in stage 2.
      new_campaigns: number of campaigns that are not in the tables. Their seeds, at most
        `MAX_NEW_SEEDS` each, are no examples of the tables.
      seed: random seed of all draws.
      shape: the world's recipe.
      progress: receives the number of users done, then the steps that follow.

    Raises:
      InputError: the examples are too few for ``min_pool_examples`` or too many for the users, or
        the target exists and is not a simulated world.
    """
    total = int(0.8 * users) if examples is None else examples
    campaigns = make_campaigns(shape, stream(seed, "campaigns"))
    quotas = expected_examples(shape, campaigns.volume, users, total, min_pool_examples)
    tokens = {n: make_tokens(s, cardinality, stream(seed, n)) for n, s in LISTS.items()}
    user_ids = np.cumsum(stream(seed, "keys").integers(1, 8, users))

    # A sample of users outside the world is used to balance exposure and to estimate z linearly.
    sample = make_users(tokens, 20_000, stream(seed, "sample"))
    estimate = np.linalg.lstsq(sample.observed.astype(float), sample.persona, rcond=None)[0]
    estimate /= (sample.observed @ estimate).std(0)
    weights, even = np.exp(appeal(campaigns, sample)), np.ones(shape.campaigns)
    balance = [balance_exposure(weights, quota, even, rounds=50) for quota in quotas]

    directions = stream(seed, "pairs").standard_normal((2, len(PERSONA), PAIRS))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    drawn: list[list[np.ndarray]] = [[], []]
    affinities: list[list[np.ndarray]] = [[], []]
    orders: list[np.ndarray] = []
    shown = np.zeros((2, shape.campaigns))
    with new_directory(target, marker=MANIFEST) as directory:
        parts = beside(directory / "parts", NEW)
        parts.mkdir()
        traits = np.empty((users, len(PERSONA)), np.float32)
        for start in range(0, users, CHUNK):
            rng, stop = stream(seed, "users", start), min(start + CHUNK, users)
            chunk = make_users(tokens, stop - start, rng)
            traits[start:stop] = chunk.observed @ estimate
            weights = np.exp(appeal(campaigns, chunk))
            for stage, quota in enumerate(quotas):
                # Targets follow the cumulative quota, so that random errors do not accumulate.
                least = 0.1 * quota * CHUNK / users
                due = np.maximum(quota * stop / users - shown[stage], least)
                balance[stage] = balance_exposure(weights, due, balance[stage], rounds=3)
                occur = quota.sum() / shape.per_user / users
                pairs = expose(weights * balance[stage], occur, shape.per_user, rng)
                weights[pairs[0], pairs[1]] = 0  # not shown again in the next stage
                shown[stage] += np.bincount(pairs[1], minlength=shape.campaigns)
                pairs[0] += start
                terms = linear_and_pairwise(traits[pairs[0]], directions)
                affinity = np.einsum("et,te->e", terms, campaigns.taste[:, pairs[1]])
                affinities[stage].append(affinity)
                drawn[stage].append(pairs.astype(np.int32))
            orders.append(start + _random_order(stop - start, rng))
            frame = _user_table(chunk, tokens, user_ids[start:stop])
            _write(frame[orders[-1] - start], parts / f"{start:012}.parquet")
            progress("simulating users", stop, users)
        # Memory holds few row groups.
        paths = sorted(parts.iterdir())
        _write(pl.scan_parquet(paths, glob=False), directory / "users.parquet")
        remove(parts)

        is_new = np.zeros(shape.campaigns, bool)
        rng = stream(seed, "new campaigns")
        is_new[rng.choice(shape.campaigns, new_campaigns, replace=False)] = True
        stages = [
            (*np.concatenate(pairs, axis=1), np.concatenate(terms))
            for pairs, terms in zip(drawn, affinities, strict=True)
        ]
        progress("setting the conversions", 0, 1)
        _, campaign, affinity = stages[0]
        scale = find_scale(affinity, campaign, campaigns.rate)
        intercept = find_intercepts(scale * affinity, campaign, campaigns.rate)
        frames = []
        for stage, (user, campaign, affinity) in enumerate(stages):
            chance = sigmoid(scale * affinity + intercept[campaign])
            ids = user_ids[user], campaigns.ids[campaign]
            frames.append(_examples(stage, *ids, campaign, chance, is_new, seed))
        _write(pl.concat(frames), directory / "examples.parquet")
        taste = scale * campaigns.taste
        truth = Truth(user_ids, campaigns.ids, traits, directions, taste, intercept)
        np.savez(directory / TRUTH, **truth._asdict())
        table = pl.DataFrame({"campaign_id": campaigns.ids, **campaigns.attributes})
        _write(table.filter(~is_new), directory / "campaigns.parquet")
        if new_campaigns:
            (directory / "new").mkdir()
            table.filter(is_new).write_csv(directory / "new" / "campaigns.csv")
            seeds = _new_seeds(truth, np.concatenate(orders), is_new, seed)
            seeds.write_csv(directory / "new" / "examples.csv")
        write_json(directory / "schema.json", TENCENT.to_json())
        name = f"simulated {shape.name} twin (seed {seed}, {users:,} users)\n"
        (directory / "SIMULATED").write_text(name)
        recipe = {
            "format": FORMAT,
            "shape": shape.name,
            "seed": seed,
            "users": users,
            "examples": examples,
            "cardinality": cardinality,
            "min_pool_examples": min_pool_examples,
            "new_campaigns": new_campaigns,
        }
        files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
        seal(directory, MANIFEST, recipe, files, progress=progress)


def _random_order(count: int, rng: np.random.Generator) -> np.ndarray:
    """(U,) order of a chunk's users.

    The draws before it are those of the competition's text form: three fields that no method uses,
    and eight orders of the 17 fields in a line. So a world has the same rows in either form.
    """
    for values in (5, 3, 4):
        rng.integers(values, size=count)
    for _ in range(8):
        rng.permutation(17)
    return rng.permutation(count)


def _user_table(
    users: Users, tokens: dict[str, TokenDistribution], user_ids: np.ndarray
) -> pl.DataFrame:
    """The rows of a chunk of users, in the order of their ids (U,)."""
    columns = [pl.Series("user_id", user_ids)]
    for field in TENCENT.user:
        if field.name in users.fields:
            value, codes = users.fields[field.name], FIELDS[field.name].codes
            raw = np.array(codes)[value] if codes else value
        else:
            drawn = users.lists[field.name]
            raw = np.where(drawn < 0, -1, tokens[field.name].raw[drawn])
        column = pl.col(field.name)
        if field.slots > 1:
            kept = column.arr.to_list().list.filter(pl.element() >= 0)
        else:
            raw, kept = raw.ravel(), pl.when(column >= 0).then(column)
        columns.append(pl.DataFrame({field.name: raw}).select(kept)[field.name])
    return pl.DataFrame(columns)


def _write(frame: pl.DataFrame | pl.LazyFrame, path: Path) -> None:
    frame.lazy().sink_parquet(path, row_group_size=CHUNK)


def _examples(
    stage: int,
    user_ids: np.ndarray,
    campaign_ids: np.ndarray,
    campaign: np.ndarray,
    probability: np.ndarray,
    is_new: np.ndarray,
    seed: int,
) -> pl.DataFrame:
    """The (E,) examples of stage 0 or 1, in a random order; in the second one seeds are first.

    Those of new campaigns, (C,) bool, are left out.
    """
    rng = stream(seed, ("train", "test1_truth")[stage])
    label = draw_labels(probability, campaign, rng)
    order = rng.permutation(len(campaign))
    if stage == 1:
        order = order[np.argsort(-label[order], kind="stable")]
    order = order[~is_new[campaign[order]]]
    return pl.DataFrame(
        {
            "campaign_id": campaign_ids[order],
            "user_id": user_ids[order],
            "label": label[order],
            "stage": np.full(len(order), stage + 1, np.int8),
            "probability": probability[order].astype(np.float32),
        }
    )


def _new_seeds(truth: Truth, order: np.ndarray, is_new: np.ndarray, seed: int) -> pl.DataFrame:
    """Examples: the seeds of new campaigns (C,) bool; ``order`` (U,) is that of the users' rows."""
    parts = []
    for campaign in np.flatnonzero(is_new).tolist():
        chance = truth.probability(order, np.full(len(order), campaign))
        rng = stream(seed, "seeds", campaign)
        tried = rng.permutation(len(order))
        converted = tried[rng.random(len(order)) < chance[tried]][:MAX_NEW_SEEDS]
        ids = pl.DataFrame({"user_id": truth.user_ids[order[converted]]})
        campaign_id = pl.lit(truth.campaign_ids[campaign]).alias("campaign_id")
        parts.append(ids.select(campaign_id, "user_id", pl.lit(1).alias("label")))
    return pl.concat(parts)
