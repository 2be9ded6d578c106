"""All runs of a comparison: loads the data of each seed, and trains and judges the methods on it.

OUT holds a folder per run (see `run`), and the report.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.comparison import report
from experiments.comparison.methods import Preset, build_methods
from experiments.comparison.origin import command_of
from experiments.comparison.results import Comparison, in_columns
from experiments.comparison.run import Data, run_methods
from metaheac_jax.cli import terminal
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.files import locked, write_json
from metaheac_jax.methods import Method
from metaheac_jax.progress import Progress, prefixed

#: ``load(seed, progress)`` returns the data of a run.
Load = Callable[[int, Progress], Data]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The common options of the commands that compare methods."""

    preset: Preset = "paper"
    """Settings, and the split of the Tencent data: what the paper prints, 60% of the campaigns at
    random for training, or what the authors' program does."""
    methods: tuple[str, ...]
    """Methods to train, by name. An unknown name prints the list."""
    rival: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODULE:CLASS NAME=VALUE")] = ()
    """A classifier with scikit-learn's interface to compare with, such as
    sklearn.ensemble:HistGradientBoostingClassifier, and its arguments, such as max_iter=200. It
    is fitted to each campaign's examples; --set columns, scores or most changes what it sees."""
    runs: int = 1
    """Number of runs; each has its own split, initial values and batches, and its own simulated
    world."""
    seed: int = 0
    """Random seed of the first run; the others follow."""
    out: Path = Path("runs")
    """Folder for the results. An existing run in it is replaced, unless --resume is given."""
    resume: bool = False
    """Continue the runs in --out where they stopped. Finished methods stay, so methods and runs may
    be added."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """Other values for settings, for all methods that have them, for example value_dropout=.7. An
    unknown name lists close ones."""

    @property
    def seeds(self) -> list[int]:
        """The seed of each run."""
        return list(range(self.seed, self.seed + self.runs))

    def build(self, world: str | None, **own: Any) -> list[Method]:
        """The methods; see `methods.build_methods`.

        Raises:
          InputError: an option cannot be used; the message names it.
        """
        check_whole("--runs", self.runs, 1)
        check_whole("--seed", self.seed, 0)
        names, changes = self.methods, self.set
        if self.rival:
            classifier, *arguments = self.rival
            given = (f"classifier={classifier}", f"arguments={' '.join(arguments)}")
            names, changes = (*names, "rival"), (*changes, *given)
        return build_methods(names, preset=self.preset, world=world, changes=changes, **own)


def compare(
    options: RunOptions,
    methods: list[Method],
    load: Load,
    *,
    published: str | None = None,
    notes: tuple[str, ...] = (),
) -> None:
    """Does every run of a command, and writes and prints the report.

    Args:
      options: options of the command.
      methods: from `RunOptions.build`.
      load: loads the data of a run.
      published: as in `Comparison`.
      notes: lines for the end of the report.

    Raises:
      InputError: the data cannot be trained on, or --resume does not fit the contents of OUT.
    """
    terminal.keep_compiled()
    with locked(options.out):
        with terminal.progress_display() as progress:
            first, runs = _run_all(options, methods, load, progress)
        facts = first.describe()
        title = (
            f"{facts['data']}: {facts['train_campaigns']} training and {facts['test_campaigns']} "
            f"test campaigns, {facts['stage1']:,} + {facts['stage2']:,} examples, "
            f"{facts['rows']:,} table rows; small: at most {facts['threshold']:,} seeds; preset "
            f"{options.preset}" + (f", {options.runs} runs" if options.runs > 1 else "")
        )
        columns, by_method = in_columns(runs)
        comparison = Comparison(
            title=title,
            seeds=options.seeds,
            independent_runs=first.independent_runs,
            about={**facts, "preset": options.preset, "commands": [command_of(options)]},
            campaigns=columns,
            methods=by_method,
            published=published,
        )
        report.write(options.out, comparison, notes)
    terminal.print_lines(f"report, figure, results and the runs are in {options.out}")


def _run_all(
    options: RunOptions, methods: list[Method], load: Load, progress: Progress
) -> tuple[Data, list[dict[str, Any]]]:
    """The data of the first run, and the results of every run by method."""
    first = load(options.seed, progress)
    first.check()
    if not options.resume:
        _clear(options.out)
    runs = []
    for seed in options.seeds:
        told = prefixed(progress, f"run {len(runs) + 1} of {options.runs}, ")
        told = progress if options.runs == 1 else told
        data = first if seed == options.seed else load(seed, told)
        data.check()
        directory = options.out / f"seed-{seed}"
        open_run(directory, data, options, seed)
        runs.append(run_methods(data, methods, seed=seed, directory=directory, progress=told))
    return first, runs


def open_run(directory: Path, data: Data, options: RunOptions, seed: int) -> None:
    """Makes a run's folder, or checks that the run in it began with the same data and options.

    Raises:
      InputError: it began with others; the message names them.
    """
    kept = ("preset", "set")
    config: Mapping[str, Any] = {
        **{name: value for name, value in asdict(options).items() if name in kept},
        **data.describe(),
        "seed": seed,
    }
    config = json.loads(json.dumps(config))
    path = directory / "config.json"
    if path.is_file():
        before = json.loads(path.read_text())
        changed = [name for name in config if config[name] != before.get(name)]
        if changed:
            raise InputError(
                f"{directory}: began with another {', '.join(changed)}; start afresh without "
                "--resume, or give the same options"
            )
    directory.joinpath("methods").mkdir(parents=True, exist_ok=True)
    write_json(path, config)


def _clear(out: Path) -> None:
    """Removes an older comparison, and no other files."""
    runs = [path.parent for path in out.glob("seed-*/config.json")]
    for run in runs:
        for name in ("methods", "checkpoints"):
            shutil.rmtree(run / name, ignore_errors=True)
        (run / "config.json").unlink(missing_ok=True)
    for name in report.OUTPUTS if runs else ():  # elsewhere, a report may belong to something else
        (out / name).unlink(missing_ok=True)
