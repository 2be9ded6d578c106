"""Look-alike audiences on the Tencent data: train offline, customise online, judge, report.

Without --data-dir it makes a simulated world in the competition's own format and reads that.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import tyro

from experiments import console as ui
from experiments import report
from experiments.job import Data
from experiments.methods import METHODS, choose
from experiments.runs import RunOptions, check_options, run_all
from experiments.tuning import RATES, SIZED, SIZES
from metaheac_jax.data import authors, tencent
from metaheac_jax.data.dataset import Dataset, open_dataset
from metaheac_jax.data.simulation import TENCENT as TENCENT_SHAPE
from metaheac_jax.data.simulation import WECHAT as WECHAT_SHAPE
from metaheac_jax.data.simulation import write_world
from metaheac_jax.data.splits import Split, official_split, paper_split
from metaheac_jax.errors import InputError
from metaheac_jax.presets import PRESETS, Preset
from metaheac_jax.progress import Progress
from metaheac_jax.schema import TENCENT, Schema

SHAPES = {"tencent": TENCENT_SHAPE, "wechat": WECHAT_SHAPE}  # of the simulated worlds


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Trains MetaHeac and what it is compared with, customises every test campaign, judges them.

    Writes results.json, campaigns.jsonl, report.md, report.html, figures and checkpoints into --out
    and prints the tables.
    """

    data_dir: Path | None = None
    """Folder with adFeature.csv, userFeature.data, train.csv and test1_truth.csv, or with the
    authors' {train,test_hot,test_cold}_stage{1,2}.pkl. Default: a simulated world."""
    world: Literal["tencent", "wechat"] = "tencent"
    """What is simulated without --data-dir: the Tencent data, or a world of the shape of the
    paper's WeChat data, split 58:32."""
    split: Literal["paper", "official"] | None = None
    """Training and test campaigns: 60:40 at random, or the authors' 86:87. Default: the preset's.
    The authors' pickles bring their own."""
    schema: Path | None = None
    """JSON file that names the user and campaign fields in use. Default: the paper's 14 + 6."""
    users: int = 600_000
    """Users of the simulated world, 370,000 at least, of wechat 180,000; four examples for every
    five users."""
    out: Path = Path("runs/tencent")
    """Folder for the results; a run there is replaced, unless --resume."""
    cache_dir: Path = field(default_factory=ui.cache_folder)
    """Folder for simulated worlds and prepared data, which later runs use again."""
    dry_run: bool = False
    """Print what would be done, with an estimate of memory and time, and stop."""


def main(options: Options) -> None:
    """Runs the command."""
    check_options(options)
    if options.world == "wechat" and (options.data_dir or options.split):
        raise InputError("--world wechat: is simulated and has its own split; leave out the other")
    screen, preset = ui.screen(), PRESETS[options.preset]
    if options.dry_run:
        screen.print(plan(options, preset), highlight=False, markup=False, soft_wrap=True)
        return
    with ui.progress_display(screen) as progress:
        comparison = run_all(
            options,
            lambda seed, progress: Data(*load(options, seed, progress)),
            world=None if options.data_dir else options.world,
            preset=preset,
            settings={
                "world": options.world,
                "split": options.split,
                "data_dir": options.data_dir and str(options.data_dir.resolve()),
                "schema": read_schema(options.schema).to_json(),
            },
            progress=progress,
            published=options.world,
        )
    report.write(options.out, comparison, screen)


def load(options: Options, seed: int, progress: Progress) -> tuple[Dataset, Split]:
    """The data set of a run, prepared or from the cache, and its split."""
    schema = read_schema(options.schema)
    source = options.data_dir
    if source is None:
        source = simulated_world(options, seed)
        if not source.is_dir():
            shape = SHAPES[options.world]
            write_world(source, users=options.users, seed=seed, shape=shape, progress=progress)
    elif not source.is_dir():
        raise InputError(f"{source}: no such folder; --data-dir names the one with the data files")
    target = prepared(source, schema, options)
    if _is_authors(source):
        return authors.prepare(source, target, schema=schema, progress=progress)
    if target.is_dir():
        dataset = open_dataset(target, progress=progress)
    else:
        dataset = tencent.prepare(source, target, schema=schema, progress=progress)
    if options.world == "wechat":
        return dataset, wechat_split(dataset, seed)
    if (options.split or options.preset) == "official":
        return dataset, official_split(dataset)
    return dataset, paper_split(dataset, seed)


def read_schema(path: Path | None) -> Schema:
    """The schema in a JSON file; the paper's if there is none.

    Raises:
      InputError: the file is no schema.
    """
    if path is None:
        return TENCENT
    try:
        return Schema.from_json(json.loads(path.read_text()))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def simulated_world(options: Options, seed: int) -> Path:
    """Where the simulated world of a run is, or will be."""
    world = "" if options.world == "tencent" else f"{options.world}-"
    return options.cache_dir / f"simulated-{world}{options.users}-users-seed-{seed}"


def wechat_split(dataset: Dataset, seed: int) -> Split:
    """The WeChat data's 58:32, at random, and its T.

    A seed set is small when it has at most T = 10,000 of the 286,036 seeds of that data. In a world
    with fewer seeds T is less in proportion.
    """
    seeds = int(dataset.stage1.positives.sum())
    threshold = round(10_000 * min(1.0, seeds / 286_036))
    return paper_split(dataset, seed, train_fraction=58 / 90, threshold=threshold)


def prepared(source: Path, schema: Schema, options: Options) -> Path:
    """Where the prepared form of these files is, or will be; changed files have another place."""
    stats = ((f.name, f.stat()) for f in source.iterdir() if f.is_file())
    files = sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    text = json.dumps([str(source.resolve()), files, schema.to_json()])
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return options.cache_dir / f"prepared-{source.resolve().name}-{digest}"


def plan(options: Options, preset: Preset) -> str:
    """What a run would do, and a rough estimate of its memory and time; nothing is written."""
    source, lines, schema = options.data_dir, [], read_schema(options.schema)
    rows = 334_494
    if source is None:
        # Of four examples for every five users, stage 2 takes 1,500 or more for each campaign.
        users, shape, rows = options.users, SHAPES[options.world], 35_000
        both = int(0.8 * users)
        examples = both - max(shape.campaigns * 1500, int(both * shape.pool_share))
        lines.append(f"simulate {users:,} users in {simulated_world(options, options.seed)}")
    elif _is_authors(source):
        sizes = {f.name: f.stat().st_size // 800 for f in source.glob("*.pkl")}  # bytes a row
        users = sum(sizes.values())  # a row is a user of its own
        examples = sum(size for name, size in sizes.items() if name.endswith("_stage1.pkl"))
        lines.append(f"read {source}: about {users:,} rows, {examples:,} of them of stage 1")
    else:
        users, examples = (_lines(source / name) for name in ("userFeature.data", "train.csv"))
        lines.append(f"read {source}: about {users:,} users and {examples:,} stage-1 examples")
    steps = preset.epochs * math.ceil(0.6 * examples / preset.rows)
    side = jnp.ones((1024, 1024))
    product = jax.jit(lambda a: a @ a)
    product(side).block_until_ready()
    began = time.perf_counter()
    product(side).block_until_ready()
    rate = 2 * 1024**3 / (time.perf_counter() - began)
    # Products of the experts' first layer; a step reaches about a third of the matmul rate.
    forward = 2 * len(schema.user) * preset.width * 64 * preset.experts
    seconds = 60.0 * options.runs  # making and preparing the data, compiling
    drawn = steps * 2 * preset.campaigns_per_step * preset.rows
    adapted = 0.4 * examples * (preset.online_epochs if preset.online_patience is None else 6)
    for name in choose(options.methods):
        method = METHODS[name]
        offline, online = method.work
        train, adapt = (work * forward / (rate / 3) for work in (offline * drawn, online * adapted))
        sizes = 2 * len(SIZES) if options.tune == "all" and name == SIZED else 0
        trials = sizes + (len(method.tuned) * len(RATES) if options.tune else 0)
        # Trials are on the first run's training campaigns alone, and compile anew for each rate.
        # Those of an online rate share one training.
        trained = sizes + (len(RATES) if options.tune and method.steps else 0)
        seconds += options.runs * (train + adapt)
        seconds += 0.7 * (trained * train + trials * adapt) + 10 * trials
        lines.append(
            f"{method.label}: "
            + (f"{trials} trials, then " if trials else "")
            + (f"{steps:,} offline steps" if method.steps else "no offline steps")
            + ", then every test campaign"
        )
    if options.runs > 1:
        lines.append(f"the same {options.runs} times, each with its own seed")
    memory = 1.5 + (users * sum(schema.user_slots) * 4 + 8 * rows * preset.width * 4) / 2**30
    lines.append(f"write results, report.md, report.html and checkpoints into {options.out}")
    lines.append(
        f"roughly {memory:.1f} GiB of memory and {seconds / 60:.0f} minutes on this machine"
    )
    return "\n".join(lines)


def _is_authors(source: Path) -> bool:
    """Whether a folder has the authors' pickles."""
    return any(source.glob("*_stage1.pkl"))


def _lines(path: Path) -> int:
    """About how many lines a file has, from the length of its first ones."""
    if not path.is_file():
        raise InputError(f"{path}: missing; --data-dir names the folder with the data files")
    with path.open("rb") as file:
        head = file.read(1 << 20)
    return path.stat().st_size * head.count(b"\n") // max(len(head), 1)


if __name__ == "__main__":
    ui.run(lambda: main(tyro.cli(Options, prog="python -m experiments.tencent")))
