"""Conversions of a simulated world: the labels of its examples, and the truth, by which it answers.

Axes: U users, C campaigns, E examples or other pairs of a user and a campaign, D persona
dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from metaheac_jax.boundary import COUNT, Column, check_arrays, read_archive
from metaheac_jax.data.campaign import CONTROL, GROUP
from metaheac_jax.data.table_file import Table
from metaheac_jax.errors import check_whole
from metaheac_jax.sealed import read_sealed, read_undisturbed

#: The manifest of a world's folder, and its format, which changes with the worlds that the same
#: arguments give.
MANIFEST, FORMAT = "world.json", "metaheac_jax world 3"
#: The file of a `Truth`.
TRUTH = "truth.npz"
AUC = 0.80  # of the true probability against labels, as a mean over campaigns
#: Rate at which users convert who are not shown a campaign, as a fraction of that if they are.
UNSHOWN = 0.5
_HALVINGS = 16  # of the interval that contains the scale
_BLOCK = 100_000  # pairs whose terms are in memory at a time


_COLUMNS = {
    "user_ids": Column("i8", ("U",), order=np.less),
    "campaign_ids": Column("i8", ("C",), order=np.less),
    "traits": Column("f4", ("U", "D")),
    "pairs": Column("f8", (2, "D", "PAIRS")),
    "weights": Column("f8", ("D + PAIRS", "C")),
    "intercept": Column("f8", ("C",)),
}


class Truth(NamedTuple):
    """The conversion model of a world; it covers every pair of a user and a campaign.

    Attributes:
      user_ids: (U,) ascending; ``campaign_ids``: (C,) ascending, with those of new campaigns.
      traits: (U, D) float32, x of each user, in the order of `PERSONA`.
      pairs: (2, D, PAIRS) directions of x whose products are the pairwise terms.
      weights: (D + PAIRS, C) weights of the linear and pairwise terms.
      intercept: (C,) log-odds.
    """

    user_ids: np.ndarray
    campaign_ids: np.ndarray
    traits: np.ndarray
    pairs: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray

    def probability(self, user: np.ndarray, campaign: np.ndarray) -> np.ndarray:
        """(E,) true conversion probability of users (E,) and campaigns (E,), by position."""
        log_odds = np.empty(len(user))
        for start in range(0, len(user), _BLOCK):
            of = slice(start, start + _BLOCK)
            terms = linear_and_pairwise(self.traits[user[of]], self.pairs)
            log_odds[of] = np.einsum("et,te->e", terms, self.weights[:, campaign[of]])
        return sigmoid(log_odds + self.intercept[campaign])


def read_truth(world: Path) -> tuple[Truth, dict[str, Any]]:
    """The conversion model of a world by `world.write_world`, and its manifest.

    Raises:
      InputError: the folder is no simulated world, or the model was altered.
    """
    world, remedy = Path(world), "simulate the world again"
    path, content = world / TRUTH, {"seed": COUNT, "files": [TRUTH]}
    options: Any = {"format": FORMAT, "remedy": remedy, "content": content}

    def read() -> tuple[Truth, dict[str, Any]]:
        about = read_sealed(world, MANIFEST, verify=lambda name: name == TRUTH, **options)
        arrays = read_archive(path.read_bytes(), f"{path}", remedy)
        check_arrays(arrays, _COLUMNS, f"{path}", remedy)
        return Truth(**{name: arrays[name] for name in _COLUMNS}), about

    return read_undisturbed(world, MANIFEST, read)


def true_probability(
    world: Path, campaign_ids: int | np.ndarray, user_ids: np.ndarray
) -> np.ndarray:
    """(n,) true probability that each of n users of a world converts for a campaign, or for n."""
    truth, _ = read_truth(world)
    campaign = np.searchsorted(truth.campaign_ids, campaign_ids)
    user = np.searchsorted(truth.user_ids, user_ids)
    return truth.probability(user, np.broadcast_to(campaign, user.shape))


def show(world: Path, audience: Path | pl.DataFrame, *, seed: int = 0) -> pl.DataFrame:
    """Shows campaigns to users of a world, who convert by their true probabilities.

    A user's answer depends on the world, the seed, the campaign and the user alone, so showing a
    campaign to the user again gives the same answer. Control groups are not shown it, and convert
    at `UNSHOWN` of their probabilities.

    Args:
      world: folder of the world.
      audience: a table with the columns campaign_id and user_id, and group if there are control
        groups; or its path.
      seed: random seed of the answers.

    Returns:
      campaign_id, user_id, label (1 if the user converted, else 0), audience (1), and group if the
      audience has it, a row per row of the audience: rows of examples for `metaheac add`.

    Raises:
      InputError: as `read_truth`; or the audience cannot be read, or has a campaign or a user that
        the world does not have. The message names the row.
    """
    check_whole("seed", seed, 0)
    truth, about = read_truth(world)
    table = Table(audience, ["campaign_id", "user_id"], name="audience")
    campaign = _positions(truth.campaign_ids, table, "campaign_id")
    user = _positions(truth.user_ids, table, "user_id")
    dart = np.empty(len(user))
    for one in np.unique(campaign):
        of = campaign == one
        rng = stream(about["seed"], "answers", seed, int(one))
        dart[of] = rng.random(len(truth.user_ids))[user[of]]
    groups = table.collect(table.scan().select(GROUP)) if GROUP in table.names else pl.DataFrame()
    chance = truth.probability(user, campaign)
    if len(groups):
        chance = np.where(groups[GROUP] == CONTROL, UNSHOWN * chance, chance)
    answers = {
        "campaign_id": truth.campaign_ids[campaign],
        "user_id": truth.user_ids[user],
        "label": (dart < chance).astype(np.int8),
        "audience": np.ones(len(user), np.int8),
    }
    return pl.DataFrame(answers | groups.to_dict())


def stream(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A random stream per purpose, so that a change to one does not affect the others."""
    entropy = [seed, *purpose.encode(), *numbers]
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))


def _positions(known: np.ndarray, table: Table, column: str) -> np.ndarray:
    """(n,) positions of a table's ids in an ascending array of those known."""
    table.check_ids(column, whole=True)
    cells = table.id_cells(column, whole=True)
    wanted = table.collect(table.scan().select(cells)).to_series().to_numpy()
    position = np.searchsorted(known, wanted).clip(max=len(known) - 1)
    unknown = known[position] != wanted
    if unknown.any():
        raise table.fault(int(unknown.argmax()), f"{column} is not in the world")
    return position


def linear_and_pairwise(x: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """(E, D) x of users, (2, D, PAIRS) directions -> (E, D + PAIRS) linear and pairwise terms."""
    x = x.astype(np.float64)
    left, right = directions
    return np.concatenate([x, (x @ left) * (x @ right)], axis=1)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Log-odds -> probability, of any shape."""
    return 1 / (1 + np.exp(-x))


def find_intercepts(log_odds: np.ndarray, campaign: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """(C,) intercepts that give each campaign its mean probability, by bisection.

    Args:
      log_odds: (E,) log-odds without intercepts.
      campaign: (E,) campaign of each example.
      rate: (C,) mean probability to reach.
    """
    count = np.maximum(np.bincount(campaign, minlength=len(rate)), 1)
    low, high = np.full(len(rate), -40.0), np.full(len(rate), 40.0)
    for _ in range(40):
        middle = (low + high) / 2
        mean = np.bincount(campaign, sigmoid(log_odds + middle[campaign]), len(rate)) / count
        low, high = np.where(mean < rate, middle, low), np.where(mean < rate, high, middle)
    return (low + high) / 2


def find_scale(affinity: np.ndarray, campaign: np.ndarray, rate: np.ndarray) -> float:
    """The common factor of the affinities at which the expected AUC is `AUC`.

    Args:
      affinity: (E,) log-odds before scaling, without intercepts.
      campaign: (E,) campaign of each example.
      rate: (C,) mean probability of each campaign.
    """
    order = np.lexsort((affinity, campaign))
    affinity, campaign = affinity[order], campaign[order]
    start = np.searchsorted(campaign, np.arange(len(rate)))[campaign]

    def expected_auc(scale: float) -> float:
        intercepts = find_intercepts(scale * affinity, campaign, rate)
        p = sigmoid(scale * affinity + intercepts[campaign])
        below = np.cumsum(1 - p) - (1 - p)
        below -= below[start]  # expected negatives below an example, in its campaign
        pairs = [np.bincount(campaign, x, len(rate)) for x in (p * below, p, 1 - p, p * (1 - p))]
        return float(np.mean(pairs[0] / (pairs[1] * pairs[2] - pairs[3])))

    low, high = 0.0, 5.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if expected_auc(middle) < AUC else (low, middle)
    return (low + high) / 2


def draw_labels(
    probability: np.ndarray, campaign: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(E,) int8 labels, 1 or 0, by systematic sampling.

    The probabilities are summed in a random order, from a random offset per campaign. An example is
    positive if the running sum passes a whole number there.

    Args:
      probability: (E,).
      campaign: (E,) campaign of each example.
      rng: draws the order and the offsets.
    """
    order = np.lexsort((rng.random(len(campaign)), campaign))
    passed = np.cumsum(probability[order])
    first = np.searchsorted(campaign[order], np.arange(campaign.max() + 1))
    offset = rng.random(campaign.max() + 1) - (passed - probability[order])[first]
    passed += offset[campaign[order]]
    label = np.empty(len(campaign), np.int8)
    label[order] = np.floor(passed) > np.floor(passed - probability[order])
    return label
