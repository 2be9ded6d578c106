"""Look-alike audiences on the Tencent data: train offline, customise online, judge, report.

Without --data-dir, the command simulates a world in the competition's format and reads it.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp

from experiments.comparison import report
from experiments.comparison.adapting import method_named
from experiments.comparison.run import Data
from experiments.comparison.runs import RunOptions, check_options, run_all, start_settings
from experiments.comparison.tuning import searched
from metaheac_jax.cli import terminal
from metaheac_jax.cli.prepare import read_schema
from metaheac_jax.cli.simulate import WORLDS
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.simulation import RECIPE, count_examples, write_world
from metaheac_jax.data.sources import official, tencent
from metaheac_jax.data.splits import Split, official_split, paper_split
from metaheac_jax.data.storage import FORMAT, open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import locked, make_once
from metaheac_jax.progress import Progress
from metaheac_jax.schema import Schema
from metaheac_jax.settings import Settings

#: Options that only a simulated world has.
WORLD_OPTIONS = ("users", "examples", "cardinality")
#: With fewer users, the default number of examples is too small for the pools.
MIN_USERS_BY_DEFAULT = {"tencent": 370_000, "wechat": 180_000}


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Trains MetaHeac and other methods, customises them to the test campaigns and judges them.

    Writes results.json, campaigns.jsonl, report.md, report.html, figures and checkpoints to --out
    and prints the tables.
    """

    data_dir: Path | None = None
    """Folder with adFeature.csv, userFeature.data, train.csv and test1_truth.csv, or with the
    authors' {train,test_hot,test_cold}_stage{1,2}.pkl. Default: a simulated world."""
    world: Literal["tencent", "wechat"] = "tencent"
    """World to simulate without --data-dir: the Tencent data, or one with the counts of the paper's
    WeChat data, split 58:32."""
    split: Literal["paper", "official"] | None = None
    """Training and test campaigns: 60:40 at random, or the authors' 86:87. Default: the preset's.
    The authors' pickles have their own split."""
    schema: Path | None = None
    """JSON file with the user and campaign fields to use. Default: the paper's 14 + 6."""
    users: int = 600_000
    """Number of users of the simulated world. Without --examples the minimum is 370,000, or 180,000
    for wechat. The real data has 11,420,039."""
    examples: int | None = None
    """Approximate number of examples of the simulated world. Default: four per five users. The real
    data has 11,064,803."""
    cardinality: float = 0.1
    """Size of the large vocabularies of the simulated world, as a fraction of the real ones."""
    out: Path = Path("runs/tencent")
    """Folder for the results. An existing run in it is replaced, unless --resume is given."""
    cache_dir: Path = field(default_factory=terminal.cache_folder)
    """Folder for simulated worlds and prepared data, which later runs reuse."""
    dry_run: bool = False
    """Print the plan with an estimate of memory and time, and stop."""


def main(options: Options) -> None:
    """Runs the command."""
    check_options(options)
    if options.world == "wechat" and (options.data_dir or options.split):
        raise InputError(
            "--world wechat: it is simulated and has its own split; omit --data-dir and --split"
        )
    if options.data_dir is not None:
        refuse_world_options(options)
        refuse_split_of_pickles(options)
        refuse_runs_of_one_split(options)
    elif options.examples is None:
        terminal.check_minimum("--users", options.users, MIN_USERS_BY_DEFAULT[options.world])
    screen, settings = terminal.screen(), start_settings(options)
    if options.dry_run:
        terminal.print_lines(screen, plan(options, settings))
        return
    with locked(options.out):
        with terminal.progress_display(screen) as progress:
            comparison = run_all(
                options,
                lambda seed, progress: Data(
                    *load(options, seed, progress), independent_runs=options.data_dir is None
                ),
                world=None if options.data_dir else options.world,
                settings=settings,
                more_config={
                    "world": options.world,
                    "split": options.split,
                    "data_dir": options.data_dir and str(options.data_dir.resolve()),
                    "schema": read_schema(options.schema).to_json(),
                },
                progress=progress,
                published=options.world,
            )
        report.write(options.out, comparison, screen)


def refuse_world_options(options: Any) -> None:
    """Refuses options of a simulated world if --data-dir is given.

    Raises:
      InputError: there is one; the message names it.
    """
    for known in fields(options):
        if known.name in WORLD_OPTIONS and getattr(options, known.name) != known.default:
            raise InputError(
                f"--{known.name}: cannot be used with --data-dir, which is not a simulated world"
            )


def refuse_split_of_pickles(options: Options) -> None:
    """Refuses another split of the authors' files than their own.

    Raises:
      InputError: --split asks for one.
    """
    assert options.data_dir is not None
    if options.split == "paper" and official.is_source(options.data_dir):
        raise InputError("--split paper: the authors' pickles have their own split; omit --split")


def refuse_runs_of_one_split(options: Options) -> None:
    """Refuses several runs on files whose campaigns are always divided in the same way.

    The significance tests assume that runs are random splits or independent worlds.

    Raises:
      InputError: there are several runs.
    """
    assert options.data_dir is not None
    fixed = official.is_source(options.data_dir) or (options.split or options.preset) == "official"
    if options.runs > 1 and fixed:
        raise InputError(
            f"--runs: these files have one split, so {options.runs} runs would not be independent; "
            "give --runs 1, or for the competition's files --split paper"
        )


def load(options: Options, seed: int, progress: Progress) -> tuple[Dataset, Split]:
    """The dataset of a run, prepared now or taken from the cache, and its split.

    Raises:
      InputError: --data-dir is not a folder, or its files cannot be read.
    """
    schema = read_schema(options.schema)
    source = options.data_dir
    if source is None:
        world = simulated_world(options, seed)

        def simulate() -> None:
            write_world(
                world,
                users=options.users,
                examples=options.examples,
                cardinality=options.cardinality,
                seed=seed,
                shape=WORLDS[options.world],
                progress=progress,
            )

        make_once(world, simulate, progress=progress)
        source = world
    elif not source.is_dir():
        raise InputError(f"{source}: no such folder; --data-dir must contain the data files")
    target = prepared_folder(source, schema, options)
    if official.is_source(source):
        with locked(target, wait=progress):
            return official.prepare(source, target, schema=schema, progress=progress)

    def prepare() -> None:
        tencent.prepare(source, target, schema=schema, progress=progress)

    make_once(target, prepare, progress=progress)
    dataset = open_dataset(target, progress=progress)
    if options.world == "wechat":
        return dataset, wechat_split(dataset, seed)
    if (options.split or options.preset) == "official":
        return dataset, official_split(dataset)
    return dataset, paper_split(dataset, seed)


def simulated_world(options: Options, seed: int) -> Path:
    """Folder of a run's simulated world; it may not exist yet."""
    name = f"simulated-{RECIPE}-" + ("" if options.world == "tencent" else f"{options.world}-")
    name += f"{options.users}-users-"
    if options.examples is not None:
        name += f"{options.examples}-examples-"
    if options.cardinality != Options.cardinality:
        name += f"cardinality-{options.cardinality:g}-"
    return options.cache_dir / f"{name}seed-{seed}"


def wechat_split(dataset: Dataset, seed: int) -> Split:
    """A random split, 58:32 as in the WeChat data.

    The paper's T is 10,000, for 286,036 seeds in total. In a world with fewer seeds, T is reduced
    in proportion.
    """
    seeds = int(dataset.stage1.positives.sum())
    threshold = round(10_000 * min(1.0, seeds / 286_036))
    return paper_split(dataset, seed, train_fraction=58 / 90, threshold=threshold)


def prepared_folder(source: Path, schema: Schema, options: Options) -> Path:
    """Folder of the prepared dataset, which depends on the source files and may not exist yet."""
    stats = ((f.name, f.stat()) for f in source.iterdir() if f.is_file())
    files = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    text = json.dumps([FORMAT, str(source.resolve()), files, schema.to_json()])
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return options.cache_dir / f"prepared-{source.resolve().name}-{digest}"


def plan(options: Options, settings: Settings) -> str:
    """Describes what a run would do, with a rough estimate of memory and time; writes nothing."""
    source, lines, schema = options.data_dir, [], read_schema(options.schema)
    rows = 334_494
    if source is None:
        users, rows = options.users, int(rows * options.cardinality)
        examples, _ = count_examples(
            users=users,
            examples=options.examples,
            seed=options.seed,
            shape=WORLDS[options.world],
        )
        lines.append(f"simulate {users:,} users in {simulated_world(options, options.seed)}")
    elif official.is_source(source):
        sizes = {f.name: f.stat().st_size // 800 for f in source.glob("*.pkl")}  # bytes per example
        users = sum(sizes.values())  # one user per example
        examples = sum(size for name, size in sizes.items() if name.endswith("_stage1.pkl"))
        lines.append(f"read {source}: about {users:,} examples, {examples:,} of them in stage 1")
    else:
        users, examples = (_num_lines(source / name) for name in ("userFeature.data", "train.csv"))
        lines.append(f"read {source}: about {users:,} users and {examples:,} stage-1 examples")
    # With early stopping, as long as most networks train in the worlds of the results.
    epochs = settings.offline_epochs if settings.offline_patience is None else 8
    steps = epochs * math.ceil(0.6 * options.offline_examples * examples / settings.batch_size)
    side = jnp.ones((1024, 1024))
    product = jax.jit(lambda a: a @ a)
    product(side).block_until_ready()
    began = time.perf_counter()
    product(side).block_until_ready()
    rate = 2 * 1024**3 / (time.perf_counter() - began)
    # Products of the experts' first layer. A step is assumed to reach a third of the matmul rate.
    forward = 2 * len(schema.user) * settings.width * 64 * settings.num_experts
    seconds = 60.0 * options.runs  # making and preparing the data, compiling
    drawn = steps * 2 * settings.campaigns_per_step * settings.batch_size
    epochs = settings.online_epochs if settings.online_patience is None else 6
    adapted = 0.4 * options.online_examples * examples * epochs
    for name in options.names:
        method = method_named(name, settings)
        offline, online = method.work
        train, adapt = (work * forward / (rate / 3) for work in (offline * drawn, online * adapted))
        trials = options.tune if searched(method, options.tune_only) else 0
        # Trials use only the first run's training campaigns, and compile again for each rate.
        seconds += options.runs * (train + adapt) + trials * (0.8 * train + 0.1 * adapt + 10)
        lines.append(
            f"{method.label}: "
            + (f"{trials} trials, then " if trials else "")
            + (f"some {steps:,} offline steps" if method.takes_steps else "no offline steps")
            + ", then every test campaign"
        )
    if options.runs > 1:
        lines.append(f"all of this {options.runs} times, each time with another seed")
    memory = 1.5 + (users * schema.num_slots * 4 + 8 * rows * settings.width * 4) / 2**30
    lines.append(f"write results, report.md, report.html and checkpoints to {options.out}")
    lines.append(
        f"roughly {memory:.1f} GiB of memory and {seconds / 60:.0f} minutes on this machine"
    )
    return "\n".join(lines)


def _num_lines(path: Path) -> int:
    """Approximate number of lines of a file, from the length of its first lines."""
    if not path.is_file():
        raise InputError(f"{path}: missing; --data-dir must contain the data files")
    with path.open("rb") as file:
        head = file.read(1 << 20)
    return path.stat().st_size * head.count(b"\n") // max(len(head), 1)


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.tencent")
