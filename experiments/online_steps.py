"""What the inner step of meta-learning is worth after so many online steps.

A general model is trained for one inner step, and used after many steps of Adam. So MetaHeac and
the same without its inner step are judged after the same numbers of online steps on all seeds, in
simulated worlds; also with a *pull*: after each step, the weights move back towards the general
model by the learning rate times the pull of their distance. Held-out training campaigns choose it.
The methods' own customising, which stops early, is judged too. The results are a JSON file.

Axes: n examples of a campaign, U table rows that they touch, k embedding width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array

from experiments.comparison.methods import build_methods
from experiments.comparison.origin import command_of, provenance
from experiments.comparison.run import forget_compiled
from experiments.comparison.tables import Table
from experiments.sources.simulated import World, open_world
from experiments.sources.splits import paper_split
from metaheac_jax.audience.evaluating import evaluate, pool_rows
from metaheac_jax.cli import terminal
from metaheac_jax.customising.customiser import AdaptingSteps, localise, minibatches
from metaheac_jax.customising.score import network_scorers, scorers_after
from metaheac_jax.customising.sizes import GrowingSize
from metaheac_jax.data.batches import Batch, campaign_examples, generator
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.simulation.shapes import TENCENT_WORLD, Shape
from metaheac_jax.errors import check_whole
from metaheac_jax.files import write_json
from metaheac_jax.methods import Online, fit
from metaheac_jax.methods.method import NetworkMethod
from metaheac_jax.model import AdaptedWeights, General, Weights
from metaheac_jax.progress import Progress, prefixed, silent
from metaheac_jax.ranking import auc
from metaheac_jax.table.rows import rows_of
from metaheac_jax.training.step import RowState


@dataclass(frozen=True, kw_only=True)
class Options:
    """Judges general models after several numbers of online steps."""

    methods: tuple[str, ...] = ("alpha-0-lengths", "metaheac-lengths")
    """Networks to train, by name."""
    steps: tuple[int, ...] = (0, 1, 5, 20, 80)
    """Numbers of online steps, ascending."""
    pulls: tuple[float, ...] = (0.0, 30.0, 100.0, 300.0)
    """Strengths of the pull towards the general model that are tried."""
    campaigns: int = TENCENT_WORLD.campaigns
    """Number of campaigns of a world; its advertisers and so on grow with it, and their pools are
    smaller. 1,000 campaigns need some 2 million users."""
    users: int = 600_000
    """Number of users of a world."""
    runs: int = 1
    """Number of worlds."""
    out: Path = Path("runs/online_steps.json")
    """File for the results. The models that are being trained are in a folder beside it, and the
    same command goes on."""
    cache_dir: Path = field(default_factory=terminal.cache_folder)
    """Folder for simulated worlds, which later runs reuse."""


def main(options: Options) -> None:
    """Runs the command."""
    check_whole("--runs", options.runs, 1)
    methods: list[Any] = build_methods(options.methods, world="tencent")
    worlds, shape = list[dict[str, Any]](), shape_of(options.campaigns)
    with terminal.progress_display() as progress:
        for seed in range(options.runs):
            pool = round(World.min_pool_examples * TENCENT_WORLD.campaigns / shape.campaigns)
            world = World(users=options.users, seed=seed, shape=shape, min_pool_examples=pool)
            data = open_world(world, options.cache_dir, progress=progress)
            split, found, early = paper_split(data, seed), dict[str, Any](), dict[str, Any]()
            for method in methods:
                told = prefixed(progress, f"world {seed}, {method.label}: ")
                folder = options.out.with_suffix("") / f"seed-{seed}" / method.name
                given = {"campaigns": split.train, "seed": seed, "directory": folder}
                general = fit(data, method, progress=told, **given)
                judged = partial(judge, method, general, data, steps=options.steps, seed=seed)
                held_out = np.flatnonzero(data.campaigns_among(general.held_out))
                tried = [np.mean(judged(held_out, pull=own), axis=0) for own in options.pulls]
                best = options.pulls[int(np.argmax(np.max(tried, axis=1)))]
                for pull in dict.fromkeys((0.0, best)):
                    found[key(method.name, pull)] = judged(split.test, pull=pull, progress=told)
                outcome = evaluate(general, data, seed=seed)
                early[method.name] = outcome["auc"].drop_nulls().to_list()
                forget_compiled()
            worlds.append({"seed": seed, "auc": found, "stopping early": early})
    options.out.parent.mkdir(parents=True, exist_ok=True)
    about = {"commands": [command_of(options)], "provenance": provenance()}
    write_json(options.out, {**about, "steps": options.steps, "worlds": worlds})
    header = ["method", *(f"{count} steps" for count in options.steps)]
    names = worlds[0]["auc"]
    rows = [[name, *(f"{own:.4f}" for own in means(worlds, name))] for name in names]
    terminal.screen().print(Table("AUC on all new campaigns", header, rows).rich())


def shape_of(campaigns: int) -> Shape:
    """The twin's world with another number of campaigns, and as many more of what they share."""
    grown = {
        name: round(getattr(TENCENT_WORLD, name) * campaigns / TENCENT_WORLD.campaigns)
        for name in ("campaigns", "advertisers", "campaign_ids", "products")
    }
    return replace(TENCENT_WORLD, **grown)  # pyrefly: ignore


def key(name: str, pull: float) -> str:
    """The name of a method's results."""
    return f"{name}, pull {pull:g}" if pull else name


def means(worlds: Sequence[dict[str, Any]], name: str) -> list[float]:
    """The mean AUC of a method over campaigns, then worlds, after each number of steps."""
    return np.mean([np.mean(own["auc"][name], axis=0) for own in worlds], axis=0).tolist()


def judge(
    method: NetworkMethod[Any],
    general: General,
    data: Dataset,
    campaigns: np.ndarray,
    *,
    steps: Sequence[int],
    pull: float,
    seed: int,
    progress: Progress = silent,
) -> list[list[float]]:
    """The AUC on stage 2 of each campaign after each number of online steps on all of stage 1."""
    config = method.config
    briefs = [data.campaign(c) for c in campaigns.tolist()]
    online, briefs = Online(data, seed).lengthened(config.list_lengths, briefs)
    layout, weights = online.dataset.layout, Weights(**general.state)
    adapting = AdaptingSteps(method.network, layout)
    sizes, found = (GrowingSize(4096), GrowingSize(1024)), list[list[float]]()
    for number, (c, campaign) in enumerate(zip(campaigns.tolist(), briefs, strict=True)):
        examples, labels = campaign_examples(online.dataset, campaign), data.stage2.label
        index = layout.row_index(len(weights.table))
        touched = index.distinct(examples.ids)
        rows, ids = index.renumber(touched, sizes[0].holding(len(touched)), examples.ids)
        local, rate = examples._replace(ids=ids), config.online_learning_rate
        index = layout.row_index(len(rows))
        start = weights.network, rows_of(weights.table, rows)
        state = adapting.start(*start)
        batches, taken, own = endless(local, config.batch_size, len(rows), seed), 0, list[float]()
        for count in steps:
            while taken < count:
                some, batch = localise(index, next(batches), sizes[1])
                state, taken = adapting.adapt(*state, some, batch, rate), taken + 1
                if pull:
                    state = pulled(state, *start, rate * pull)
            model = adapting.current(state, rate)
            adapted = AdaptedWeights(model["network"], rows, model["table"])
            given = method.network, layout, weights, [(adapted, campaign.rows)]
            [score] = scorers_after(online.dataset.user_rows.lengths, network_scorers(*given))
            own.append(auc(score(pool_rows(data, c)), labels[data.stage2.of(c)]))
        found.append(own)
        progress("judge", number + 1, len(campaigns))
    return found


@jax.jit
def pulled(state: RowState, network: Any, values: Array, fraction: Array) -> RowState:
    """A state, moved towards a network and (U, k) rows by a fraction of the distance."""
    back = lambda now, start: now + fraction * (start - now)  # noqa: E731
    width, packed = values.shape[1], state.table.packed
    packed = packed.at[..., :width].set(back(packed[..., :width], values))
    network = jax.tree.map(back, state.network, network)
    return state._replace(network=network, table=state.table._replace(packed=packed))


def endless(examples: Batch, size: int, pad: int, seed: int) -> Iterator[Batch]:
    """Yields minibatches of (n,) examples, which are shuffled again in every epoch."""
    rng = generator(seed, 0)
    while True:
        yield from minibatches(examples, rng.permutation(len(examples.label)), size, pad)


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.online_steps")
