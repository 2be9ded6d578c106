"""Look-alike audiences on the Tencent data: train offline, customise online, judge, report.

Without options, the data is a small simulated world, and training is short.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.comparison.run import Data
from experiments.comparison.runs import RunOptions, compare
from experiments.sources import official, tencent
from experiments.sources.simulated import (
    World,
    make_once,
    open_world,
    oracle,
    seeds_only_oracle,
    with_vector,
)
from experiments.sources.splits import official_split, paper_split
from metaheac_jax.cli import terminal
from metaheac_jax.data.simulation.shapes import TENCENT_WORLD
from metaheac_jax.data.storage import FORMAT, open_dataset
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.files import locked
from metaheac_jax.progress import Progress
from metaheac_jax.schema import TENCENT

#: The world without --users and --data-dir, and the ceiling of its training.
SMALL: dict[str, Any] = {"users": 160_000, "examples": 175_000, "min_pool_examples": 350}
SMALL_EPOCHS = 2
#: Without --examples, a world with fewer users has too few of them for the pools.
MIN_USERS = 370_000


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Trains methods, customises them to the test campaigns and judges them; writes a report.

    Without --users and --data-dir, the world is small and training is short.
    """

    methods: tuple[str, ...] = ("lr", "mlp-pretraining", "metaheac", "solved-head", "learned-prior")
    data_dir: Path | None = None
    """Folder with adFeature.csv, userFeature.data, train.csv and test1_truth.csv, or with the
    authors' {train,test_hot,test_cold}_stage{1,2}.pkl, which have their own split. Default: a
    simulated world."""
    users: int | None = None
    """Number of users of the simulated world; training then ends by early stopping. The real data
    has 11,420,039."""
    examples: int | None = None
    """Approximate number of examples of the simulated world. Default: four per five users. The real
    data has 11,064,803."""
    cardinality: float = 0.1
    """Size of the large vocabularies of the simulated world, as a fraction of the real ones."""
    examples_per_user: float = TENCENT_WORLD.per_user
    """Mean number of examples, in a stage, of users of the simulated world who have some."""
    history: bool = False
    """Whether users of the simulated world have histories."""
    vector: bool = False
    """Whether these users have a vector, with half of what truly determines conversions."""
    out: Path = Path("runs/tencent")
    cache_dir: Path = field(default_factory=terminal.cache_folder)
    """Folder for simulated worlds and prepared data, which later runs reuse."""

    @property
    def is_small(self) -> bool:
        """Whether the world is the small one."""
        return self.users is None and self.data_dir is None


def main(options: Options) -> None:
    """Runs the command."""
    check(options)
    own = {"offline_epochs": SMALL_EPOCHS} if options.is_small else {}
    methods = options.build(None if options.data_dir else "tencent", **own)
    note = (
        f"A small simulated world of {SMALL['users']:,} users; every training ends after "
        f"{SMALL_EPOCHS} epochs. docs/results.md has the real comparison."
    )
    compare(
        options,
        methods,
        lambda seed, progress: load(options, seed, progress),
        published=None if options.is_small else "tencent",
        notes=(note,) if options.is_small else (),
    )


def check(options: Options) -> None:
    """Refuses options that do not go together.

    Raises:
      InputError: there are some; the message names them.
    """
    if options.data_dir is None:
        if options.users is not None and options.examples is None:
            check_whole("--users", options.users, MIN_USERS)
        return
    if not options.data_dir.is_dir():
        raise InputError(f"{options.data_dir}: no such folder; --data-dir has the data files")
    of_world = options.users, options.examples, options.history or None, options.vector or None
    if any(own is not None for own in of_world):
        raise InputError(
            "--data-dir: the data is not a simulated world; omit --users, --examples, --history "
            "and --vector"
        )
    fixed = official.is_source(options.data_dir) or options.preset == "official"
    if options.runs > 1 and fixed:
        # The tests assume that runs are random splits or independent worlds.
        raise InputError(
            f"--runs: these files have one split, so {options.runs} runs would not be independent; "
            "give --runs 1, or for the competition's files --preset paper"
        )


def load(options: Options, seed: int, progress: Progress) -> Data:
    """The data of a run, prepared now or taken from the cache.

    Raises:
      InputError: the files of --data-dir cannot be read.
    """
    source, truth, references = options.data_dir, None, dict[str, np.ndarray]()
    if source is None:
        world, schema = world_of(options, seed), replace(TENCENT, history=options.history)
        dataset = open_world(world, options.cache_dir, schema=schema, progress=progress)
        of_world = world, options.cache_dir, dataset
        truth = oracle(*of_world)
        if options.vector:
            dataset = with_vector(*of_world)
        if not options.is_small:
            scores = seeds_only_oracle(*of_world, paper_split(dataset, seed))
            references = {"oracle of users, with seeds": scores}
    else:
        target = prepared_folder(source, options)
        if official.is_source(source):
            with locked(target):
                prepared = official.prepare(source, target, progress=progress)
            return Data(*prepared, independent_runs=False)

        def prepare() -> None:
            tencent.prepare(source, target, progress=progress)

        make_once(target, prepare, progress=progress)
        dataset = open_dataset(target, progress=progress)
    is_official = options.preset == "official"
    split = official_split(dataset) if is_official else paper_split(dataset, seed)
    return Data(dataset, split, references, oracle=truth, independent_runs=source is None)


def world_of(options: Options, seed: int) -> World:
    """The simulated world of a run."""
    if options.users is None:
        return World(**SMALL, cardinality=options.cardinality, seed=seed)
    shape = replace(TENCENT_WORLD, per_user=options.examples_per_user)
    examples, cardinality = options.examples, options.cardinality
    return World(
        users=options.users, examples=examples, cardinality=cardinality, seed=seed, shape=shape
    )


def prepared_folder(source: Path, options: Options) -> Path:
    """Folder of the prepared dataset, which depends on the source files and may not exist yet."""
    stats = ((f.name, f.stat()) for f in source.iterdir() if f.is_file())
    files = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    text = json.dumps([FORMAT, str(source.resolve()), files])
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return options.cache_dir / f"prepared-{source.resolve().name}-{digest}"


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.tencent")
