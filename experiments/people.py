"""The comparison on surveys of real people, where an occupation or an answer is a campaign."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from experiments.baselines.one_hot import ONE_HOT, one_hot_scores
from experiments.comparison.run import Data
from experiments.comparison.runs import RunOptions, compare
from experiments.sources.people import SURVEYS, schema_of, write_people
from experiments.sources.simulated import make_once, prepare
from experiments.sources.splits import paper_split
from metaheac_jax.cli import terminal
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Trains and judges the methods on a survey of real people; writes a report."""

    methods: tuple[str, ...] = ("lr", "metaheac", "solved-head", "learned-prior", "ensemble")
    survey: Literal["occupations", "opinions", "census"] = "occupations"
    """Who is looked for: people of an occupation, people who give an answer, or people of an
    occupation or industry in a census."""
    history: bool = False
    """Whether people have histories: in which other campaigns they are seeds or non-seeds."""
    runs: int = 5
    """Number of runs; each has its own split, initial values and batches."""
    out: Path = Path("runs/people")
    cache_dir: Path = field(default_factory=terminal.cache_folder)
    """Folder for the prepared data, which later runs reuse."""


def main(options: Options) -> None:
    """Runs the command."""
    compare(options, options.build("people"), partial(load, options))


def load(options: Options, seed: int, progress: Progress) -> Data:
    """The data and split of a run."""
    tables = options.cache_dir / f"people-{options.survey}"
    target = tables.with_name(f"prepared-{tables.name}")
    make_once(tables, partial(write_people, options.survey, tables), progress=progress)
    schema = schema_of(SURVEYS[options.survey])
    make = partial(prepare, tables, target, schema=schema, progress=progress)
    make_once(target, make, progress=progress)
    data = open_dataset(target, progress=progress)
    data = replace(data, schema=replace(data.schema, history=options.history))
    split = paper_split(data, seed)
    scores = {ONE_HOT: one_hot_scores(data, split)} if options.history else {}
    return Data(data, split, scores, independent_runs=False)


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.people")
