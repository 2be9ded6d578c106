"""Does meta-learning pay? One regression on fixed features, started and customised in four ways.

Users' features are those of the learned prior, without an embedding table; a campaign is a logistic
regression on them. Compared are

1. *learned prior*: a Gaussian prior of the weights by EM; online, the mode of the posterior;
2. *MAML*: the start, a matrix of rates and the strength of a pull to the start are trained through
   K online steps, with exact second-order gradients (`build_meta_step`). With enough steps this is
   the same hierarchical model (Grant et al. 2018, "Recasting gradient-based meta-learning as
   hierarchical Bayes");
3. *plain*: the start is one regression of all training campaigns; online, the same steps and pull;
4. *around zero*: the mode of the posterior under a prior around zero with one variance.

Each has as many trials of its settings, in a world that is not judged. All online stages see the
same n seeds of a test campaign, and as many non-seeds for each as the campaign has. Two methods are
called equivalent if the 95% interval of their difference lies within `MARGIN`, which was fixed
before any result.

Axes: B examples, p features, C campaigns.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.comparison.origin import command_of, provenance
from experiments.comparison.tables import Table
from experiments.sources.movielens import build_movielens
from experiments.sources.simulated import World, open_world
from experiments.sources.splits import paper_split
from metaheac_jax.cli import terminal
from metaheac_jax.data.batches import generator
from metaheac_jax.data.dataset import Dataset, Split
from metaheac_jax.data.simulation.shapes import TENCENT_WORLD, Shape
from metaheac_jax.files import write_json
from metaheac_jax.meta import Masked, build_meta_step, inner_update
from metaheac_jax.methods.method import Offline
from metaheac_jax.methods.user_features import learn_features, vectors_of
from metaheac_jax.progress import Progress
from metaheac_jax.ranking import auc
from metaheac_jax.solvers.posterior import Examples, Gaussian, learn_prior, posterior_mode

MARGIN = 0.003  # of AUC
SEEDS = (10, 30, 100, 300, 1000)
_TUNING_SEED = 900  # of the world in which settings are chosen
_MOST = 2048  # maximum number of examples of a support set
_BATCH, _QUERY = 16, 512  # campaigns of a meta-step, and examples of a query set
_STEPS, _EVERY, _PATIENCE = 3000, 100, 5  # of meta-training; judged every so many, until none helps
_FACTORS, _PASSES = 10, 5  # those of the learned prior

#: Settings that are tried, 12 of each method: number of steps, their rate, the prior's spread and
#: the rate of meta-training; the strength of independence and the first variance; the spread.
TRIALS: dict[str, list[dict[str, float]]] = {
    "learned prior": [
        {"strength": a, "first": b} for a in (0.3, 1.0, 3.0, 10.0) for b in (0.005, 0.02, 0.08)
    ],
    "MAML": [
        {"steps": k, "rate": 2.0, "spread": s, "outer": o}
        for k in (10, 20)
        for s in (0.1, 0.2)
        for o in (0.0003, 0.001, 0.003)
    ],
    "plain": [
        {"steps": k, "rate": r, "spread": s}
        for k in (10, 20)
        for r in (0.5, 2.0)
        for s in (0.1, 0.2, 0.4)
    ],
    "around zero": [{"spread": float(s)} for s in np.geomspace(0.02, 1, 12).round(3)],
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Compares four ways to start and customise one regression, by number of seeds."""

    worlds: int = 5
    """Number of worlds of 600,000 users with 173 campaigns."""
    large_worlds: int = 2
    """Number of worlds of 2 million users with 1,667 campaigns, 1,000 of them for training."""
    splits: int = 5
    """Number of splits of MovieLens, with histories."""
    users: int = 600_000
    """Number of users of a world."""
    movielens: Path | None = None
    """Folder of MovieLens-1M, see `experiments.movielens`; None for worlds alone."""
    out: Path = Path("runs/meta_learning.json")
    """File for the results; those of each world are beside it, and the same command goes on."""
    cache_dir: Path = field(default_factory=terminal.cache_folder)
    """Folder for simulated worlds, which later runs reuse."""


class Params(NamedTuple):
    """What MAML trains; the inner steps adapt ``moved`` alone.

    Attributes:
      start: (p + 1,) weights, the last of which is the intercept.
      factor: (p + 1, p + 1) by which ``moved`` changes the weights; times its transpose it is the
        covariance of the prior that the pull means.
      rate: () logarithm of the rate of the steps.
      moved: (p + 1,) zero before the first step.
    """

    start: Any
    factor: Any
    rate: Any
    moved: Any


def main(options: Options) -> None:
    """Runs the command."""
    folder = options.out.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    with terminal.progress_display() as progress:

        def kept(name: str, make: Callable[[], Any]) -> Any:
            path = folder / f"{name}.json"
            if not path.exists():
                write_json(path, make())
            progress(name, 1, 1)
            return json.loads(path.read_text())

        def world(seed: int, *, large: bool = False) -> Problem:
            shape = shape_of(1667) if large else TENCENT_WORLD
            pool = round(World.min_pool_examples * TENCENT_WORLD.campaigns / shape.campaigns)
            users = 2_000_000 if large else options.users
            own = World(users=users, seed=seed, shape=shape, min_pool_examples=pool)
            data = open_world(own, options.cache_dir, progress=progress)
            return Problem.of(data, paper_split(data, seed), seed, progress)

        def movielens(seed: int) -> Problem:
            assert options.movielens is not None
            given = build_movielens(options.movielens, seed=seed, history=True)
            return Problem.of(*given, seed, progress)

        chosen = kept("chosen", lambda: choose(world(_TUNING_SEED), progress))
        makers: dict[str, tuple[int, Callable[[int], Problem]]] = {
            "worlds": (options.worlds, world),
            "movielens": (options.splits if options.movielens else 0, movielens),
            "large-worlds": (options.large_worlds, partial(world, large=True)),
        }
        results = {
            kind: [
                kept(f"{kind}-{seed}", lambda make=make, seed=seed: judge(make(seed), chosen))
                for seed in range(count)
            ]
            for kind, (count, make) in makers.items()
        }
    about = {"commands": [command_of(options)], "provenance": provenance()}
    write_json(options.out, {**about, "margin": MARGIN, "chosen": chosen, "results": results})
    for kind, runs in results.items():
        mean = {name: by_run(runs, name).mean(axis=0) for name in TRIALS if runs}
        rows = [[name, *map("{:.4f}".format, own)] for name, own in mean.items()]
        title = f"{kind}: AUC by number of seeds"
        terminal.screen().print(Table(title, ["method", *map(str, SEEDS)], rows).rich())


def shape_of(campaigns: int) -> Shape:
    """The twin's world with another number of campaigns, and as many more of what they share."""
    grown = {
        name: round(getattr(TENCENT_WORLD, name) * campaigns / TENCENT_WORLD.campaigns)
        for name in ("campaigns", "advertisers", "campaign_ids", "products")
    }
    return replace(TENCENT_WORLD, **grown)  # pyrefly: ignore


def by_run(runs: Sequence[dict[str, Any]], name: str) -> np.ndarray:
    """The AUC of a method in each run and by number of seeds; NaN where no campaign has so many."""
    return np.array([[own["auc"][name].get(str(n), np.nan) for n in SEEDS] for own in runs])


@dataclass(frozen=True, eq=False)
class Problem:
    """Examples of campaigns as features of unit scale.

    Attributes:
      train: of the training campaigns.
      test: stage 1 and stage 2 of the other campaigns.
      groups: (p,) of the features, see `learn_prior`.
      seed: random seed of the draws.
    """

    train: list[Examples]
    test: list[tuple[Examples, Examples]]
    groups: np.ndarray
    seed: int

    @staticmethod
    def of(data: Dataset, split: Split, seed: int, progress: Progress) -> Problem:
        """Computes the features, which are learned without the test campaigns."""
        counted = np.isin(np.arange(data.num_campaigns), split.train)
        summary = data.learned_summary(counted)
        data = data.encoded_for(data.schema, data.vocabulary, summary).lengthened()[0]
        progress("features of users", 0, 1)
        table, features = learn_features(Offline(data, split.train, seed), _FACTORS)

        def examples(name: str, c: int) -> Examples:
            stage = data.stages[name]
            of = stage.of(c)
            rows = data.user_rows.of_examples(np.asarray(stage.user[of]), c)
            return Examples(features(vectors_of(data, jnp.asarray(table), rows)), stage.label[of])

        train = [examples("stage1", c) for c in split.train.tolist()]
        test = [(examples("stage1", c), examples("stage2", c)) for c in split.test.tolist()]
        both = [own for own in test if 0 < own[1].label.mean() < 1]
        return Problem(train, both, features.groups, seed)


def drawn(examples: Examples, num_seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of random seeds and of as many non-seeds for each as the campaign has."""
    order = rng.permutation(len(examples.label))
    label = np.asarray(examples.label)[order]
    ratio = min((label == 0).sum() / max(label.sum(), 1), _MOST / num_seeds - 1)
    seeds, others = order[label == 1], order[label == 0]
    count = max(1, round(ratio * num_seeds))
    return np.sort(np.concatenate([seeds[:num_seeds], others[:count]]))


def some(examples: Examples, places: np.ndarray) -> Examples:
    """The examples at these places."""
    return Examples(examples.features[places], np.asarray(examples.label)[places])


def padded(examples: Examples, size: int) -> Masked:
    """A support or query set of ``size`` examples; the last feature is 1."""
    count, width = examples.features.shape
    features, label = np.zeros((size, width + 1), np.float32), np.zeros(size, np.float32)
    features[:count, :-1], features[:count, -1], label[:count] = (
        examples.features,
        1,
        examples.label,
    )
    number = np.full(size, max(count, 1), np.float32)
    return Masked((features, label, number), (np.arange(size) < count).astype(np.float32))


def support_loss(params: Params, batch: tuple[Array, Array, Array]) -> Array:
    """(B,) logistic losses, and a part each of the pull to the start, |moved|^2 / 2."""
    return query_loss(params, batch) + jnp.sum(params.moved**2) / (2 * batch[2])


def query_loss(params: Params, batch: tuple[Array, Array, Array]) -> Array:
    """(B,) logistic losses."""
    features, label, _ = batch
    odds = features @ (params.start + params.factor @ params.moved)
    return jnp.logaddexp(0.0, odds) - label * odds


#: The online procedure is gradient descent; see `InnerOptions`.
_INNER: dict[str, Any] = {
    "inner_learning_rate": lambda params: jnp.exp(params.rate),
    "adapt": Params(False, False, False, True),
}


@partial(jax.jit, static_argnames="steps")
def adapted(params: Params, support: Masked, steps: int) -> Array:
    """(p + 1,) the weights after so many online steps."""
    moved = inner_update(support_loss, params, support, inner_steps=steps, **_INNER).params.moved
    return params.start + params.factor @ moved


def starting(weights: np.ndarray, settings: dict[str, float]) -> Params:
    """The parameters before meta-training, from (p + 1,) weights."""
    count = len(weights)
    factor = jnp.eye(count) * settings["spread"]
    factor = factor.at[-1, -1].set(1.0)  # intercepts differ more than other weights
    zero = jnp.zeros(count)
    return Params(jnp.asarray(weights, jnp.float32), factor, jnp.log(settings["rate"]), zero)


def pooled(train: Sequence[Examples], seed: int) -> np.ndarray:
    """(p + 1,) one regression of all training campaigns, each with equal weight."""
    rng = generator(seed, 1)
    parts = [some(own, rng.permutation(len(own.label))[:_MOST]) for own in train]
    every = Examples(*(np.concatenate(own) for own in list(zip(*parts, strict=True))[:2]))
    return posterior_mode(every, Gaussian(*_around_zero(every.features.shape[1], 1.0)))


def _around_zero(size: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(size), spread**2 * np.eye(size)


def maml(problem: Problem, settings: dict[str, float]) -> tuple[Params, dict[str, float]]:
    """Trains until held-out training campaigns gain no more; also steps and time per step."""
    rng, steps = generator(problem.seed, 2), int(settings["steps"])
    order = rng.permutation(len(problem.train))
    cut = max(3, len(order) // 10)
    held, train = order[:cut], order[cut:]
    params = starting(pooled([problem.train[c] for c in train], problem.seed), settings)
    fixed = Params("train", "train", "train", "fixed")
    rate = optax.adam(settings["outer"])
    outer = optax.multi_transform({"train": rate, "fixed": optax.set_to_zero()}, fixed)
    options: dict[str, Any] = {"query_loss": query_loss, "campaigns_per_chunk": "all"}
    init, step = build_meta_step(support_loss, outer, inner_steps=steps, **options, **_INNER)
    state = init(params)
    del params  # the state consumes it

    def sets(c: int) -> tuple[Masked, Masked]:
        own, most = problem.train[c], int(problem.train[c].label.sum())
        largest = max(min(SEEDS[-1], most // 2), min(SEEDS[0], most - 1), 1)
        num_seeds = round(np.exp(rng.uniform(np.log(min(SEEDS[0], largest)), np.log(largest))))
        places = drawn(own, num_seeds, rng)
        rest = np.setdiff1d(np.arange(len(own.label)), places)
        query = rng.permutation(rest)[:_QUERY]
        return padded(some(own, places), _MOST), padded(some(own, query), _QUERY)

    def batch(campaigns: np.ndarray) -> list[Masked]:
        pairs = zip(*map(sets, campaigns.tolist()), strict=True)
        return [jax.tree.map(lambda *own: np.stack(own), *each) for each in pairs]

    judged = [sets(c) for c in np.tile(held, 8).tolist()]
    spent, best, since, number = 0.0, (np.inf, state.params), 0, 0
    while number < _STEPS and since < _PATIENCE:
        for _ in range(_EVERY):
            given = batch(rng.choice(train, _BATCH))
            start = time.perf_counter()
            state, info = step(state, *given)
            jax.block_until_ready(info.loss)
            spent += time.perf_counter() - start if number >= _EVERY else 0.0
            number += 1
        loss = _held_out_loss(state.params, judged, steps)
        since = 0 if loss < best[0] - 1e-5 else since + 1
        if since == 0:
            best = loss, jax.tree.map(np.array, state.params)
    timed = max(number - _EVERY, 1)
    return best[1], {"steps": number, "milliseconds": 1000 * spent / timed}


def _held_out_loss(params: Params, sets: Sequence[tuple[Masked, Masked]], steps: int) -> float:
    losses = []
    for support, query in sets:
        (x, y, _), mask = query
        odds = x @ np.asarray(adapted(params, support, steps))
        losses.append(np.average(np.logaddexp(0, odds) - y * odds, weights=mask))
    return float(np.mean(losses))


def customisers(
    problem: Problem, chosen: dict[str, dict[str, float]]
) -> tuple[dict[str, Callable[[Examples], np.ndarray]], dict[str, float]]:
    """Of each method a function of examples to weights (p + 1,); and how MAML was trained."""
    size, made = len(problem.groups), dict[str, Callable[[Examples], np.ndarray]]()
    told = dict[str, float]()

    def by_steps(params: Params, steps: float, examples: Examples) -> np.ndarray:
        return np.asarray(adapted(params, padded(examples, _MOST), int(steps)))

    for name, settings in chosen.items():
        if name == "learned prior":
            first = np.full(size, settings["first"])
            strength = settings["strength"] * size
            given = problem.train, problem.groups, first
            prior = learn_prior(*given, strength=strength, passes=_PASSES).prior
            made[name] = partial(posterior_mode, prior=prior)
        elif name == "around zero":
            made[name] = partial(posterior_mode, prior=Gaussian(*_around_zero(size, **settings)))
        elif name == "plain":
            params = starting(pooled(problem.train, problem.seed), settings)
            made[name] = partial(by_steps, params, settings["steps"])
        else:
            params, told = maml(problem, settings)
            made[name] = partial(by_steps, params, settings["steps"])
    return made, told


def judge(problem: Problem, chosen: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The mean AUC of each method by number of seeds, over the test campaigns that have so many."""
    made, told = customisers(problem, chosen)
    found: dict[str, dict[str, float]] = {name: {} for name in made}
    for count in SEEDS:
        values = dict[str, list[float]]((name, []) for name in made)
        for number, (first, second) in enumerate(problem.test):
            if np.sum(first.label) < count:
                continue
            given = some(first, drawn(first, count, generator(problem.seed, 10 + number)))
            for name, customise in made.items():
                weights = customise(given)
                values[name].append(auc(second.features @ weights[:-1], second.label))
        for name, own in values.items():
            if own:
                found[name][str(count)] = float(np.mean(own))
    return {"auc": found, "maml": told, "campaigns": len(problem.train)}


def choose(problem: Problem, progress: Progress) -> dict[str, dict[str, float]]:
    """The settings of each method with the highest mean AUC over all numbers of seeds."""
    best = dict[str, dict[str, float]]()
    for name, trials in TRIALS.items():
        quality = []
        for number, settings in enumerate(trials):
            found = judge(problem, {name: settings})["auc"][name]
            quality.append(np.mean([*found.values()]))
            progress(f"settings of {name}", number + 1, len(trials))
        best[name] = trials[int(np.argmax(quality))]
    return best


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.meta_learning")
