"""What the answers of one audience are worth to the next one (the paper's hourly feedback).

A world is simulated, a general model is trained, and each of ten new campaigns gets an audience.
The world answers by its true probabilities, and the answers are added to the data. The second
audience is drawn from the users who are not in the first: once from the data with the answers, and
once from the data without them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import metaheac_jax as mh
from experiments.comparison.methods import build_methods
from experiments.comparison.origin import command_of, provenance
from experiments.comparison.tables import Table
from experiments.live_week import mean_lifts
from metaheac_jax.cli import terminal
from metaheac_jax.data.adding import add
from metaheac_jax.data.simulation.truth import show, true_probability
from metaheac_jax.data.simulation.world import write_world
from metaheac_jax.files import write_json
from metaheac_jax.methods.method import Method
from metaheac_jax.progress import Progress, prefixed

NEW_CAMPAIGNS, USERS, SIZE, EPOCHS, SEED = 10, 200_000, 2000, 2, 0


@dataclass(frozen=True)
class Options:
    """Measures what the feedback of a first audience is worth to a second, in ten new campaigns."""

    methods: tuple[str, ...] = ("lr", "solved-head")
    """Methods, by name."""
    out: Path = Path("runs/feedback.json")
    """JSON file to write: expected conversions of each audience."""


def main(options: Options) -> None:
    """Runs the command."""
    methods = build_methods(options.methods, world="tencent", offline_epochs=EPOCHS)
    terminal.check_output("--out", options.out)
    terminal.keep_compiled()
    with tempfile.TemporaryDirectory() as folder, terminal.progress_display() as progress:
        world = Path(folder) / "world"
        write_world(
            world,
            users=USERS,
            min_pool_examples=300,
            new_campaigns=NEW_CAMPAIGNS,
            seed=SEED,
            progress=progress,
        )
        found = {
            method.name: conversions(method, world, prefixed(progress, f"{method.label}: "))
            for method in methods
        }
    rows = [[method.label, *map(str, summary(found[method.name]))] for method in methods]
    about = {
        "commands": [command_of(options)],
        "provenance": provenance(),
        "size": SIZE,
        "users": USERS,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {**about, "conversions": found})
    header = ["method", "first audience", "second, without feedback", "second, with", "gain"]
    terminal.screen().print(Table("Feedback", header, rows).rich())


def conversions(method: Method, world: Path, progress: Progress) -> list[dict[str, Any]]:
    """Expected conversions of each campaign's audiences, by the true probabilities.

    Returns:
      Per campaign its id, ``first``, ``without`` and ``with``: the first audience, and the second
      without and with the feedback of the first.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = mh.prepare(world, Path(folder) / "data", progress=progress)
        general = mh.fit(data, method, seed=SEED, progress=progress)
        new = world / "new"
        data = add(data, campaigns=new / "campaigns.csv", examples=new / "examples.csv")
        ids = pl.read_csv(new / "campaigns.csv")["campaign_id"].to_list()
        first = mh.expand(general, data, ids, size=SIZE, progress=progress)

        def users_of(audiences: pl.DataFrame, campaign: int) -> np.ndarray:
            return audiences.filter(campaign_id=campaign)["user_id"].to_numpy()

        def second() -> pl.DataFrame:
            audiences = [
                mh.expand(general, data, own, size=SIZE, exclude=users_of(first, own))
                for own in ids
            ]
            return pl.concat(audiences)

        without = second()
        shown = first.select("campaign_id", "user_id")
        data = add(data, examples=show(world, shown, seed=SEED))
        audiences = {"first": first, "without": without, "with": second()}
        return [
            {"campaign": campaign}
            | {
                name: round(
                    float(true_probability(world, campaign, users_of(of, campaign)).sum()), 3
                )
                for name, of in audiences.items()
            }
            for campaign in ids
        ]


def summary(found: Sequence[dict[str, Any]]) -> tuple[str, str, str, str]:
    """Mean expected conversions of the three audiences, and the gain by feedback.

    The gain is the geometric mean of the campaigns' ratios, with the 95% interval of Student's t
    over their logarithms.
    """
    first, without, fed = (
        np.array([own[name] for own in found]) for name in ("first", "without", "with")
    )
    [(gain, low, high)] = 100 * mean_lifts((fed / without - 1)[None])
    means = [f"{values.mean():.0f}" for values in (first, without, fed)]
    return means[0], means[1], means[2], f"{gain:+.1f}% [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.feedback")
