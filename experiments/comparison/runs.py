"""All runs of a comparison: loads the data, tunes or reads a stored tuning, and runs each seed.

OUT holds one folder per run (see `run_folder`), one for the tuning's trials, and the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.comparison import adapting, tuning
from experiments.comparison.provenance import command_of, describe_origin, provenance
from experiments.comparison.report import OUTPUTS
from experiments.comparison.results import Comparison
from experiments.comparison.run import Data, run_methods
from experiments.comparison.run_folder import clear_run, open_run
from experiments.comparison.tables import title
from metaheac_jax.cli import terminal
from metaheac_jax.cli.changed_settings import changed_settings
from metaheac_jax.data.storage import content_digest
from metaheac_jax.environment import MayChange
from metaheac_jax.errors import InputError
from metaheac_jax.methods import METHODS, Method
from metaheac_jax.methods.held_out_campaigns import hold_out_campaigns
from metaheac_jax.progress import Progress, prefixed
from metaheac_jax.settings import SETTINGS, Settings

#: ``load(seed, progress)`` returns the data of a run.
Load = Callable[[int, Progress], Data]
#: The methods of a command without --methods; few, so that it takes minutes.
DEFAULT = ("lr", "mlp-one-stage", "mlp-pretraining", "without-meta", "alpha-0", "metaheac")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The common options of the commands that compare methods."""

    preset: Literal["paper", "official"] = "paper"
    """Settings, as for metaheac fit --settings: what the paper prints, or what the authors' program
    does."""
    methods: tuple[str, ...] = DEFAULT
    """Methods to train, by name, or all; adapting stands for the methods of the table on what
    adapting is worth. An unknown name prints the list."""
    runs: int = 1
    """Number of runs; each has its own split, initial values and batches, and its own simulated
    world."""
    seed: int = 0
    """Random seed of the first run; the others follow."""
    out: Path = Path("runs")
    """Folder for the results. An existing run in it is replaced, unless --resume is given."""
    resume: bool = False
    """Continue the runs in --out where they stopped. Finished methods stay, so methods and runs may
    be added. Data, other options, the program and its libraries must be unchanged, since the
    results would differ otherwise."""
    allow_change: tuple[MayChange, ...] = ()
    """With --resume, what may have changed since the runs began."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """Other values for some settings of all methods, for example value_dropout=.7 width=64; an
    unknown name lists all. They replace the stored settings; not those that define a method, such
    as the one critic of without-hc. A setting that a method does not use has no effect."""
    offline_examples: float = 1.0
    """Fraction of the seeds and of the non-seeds of every training campaign to train on. Pools and
    the users' values are unchanged."""
    online_examples: float = 1.0
    """Fraction of the seeds and of the non-seeds of every test campaign to customise to."""
    tune: int = 0
    """First choose the settings of every method on held-out training campaigns, with at most this
    many trials per method: rates of both stages and of the inner step, scale of the table, value
    dropout, weight decay or penalty, numbers of experts and critics. Default: the stored settings,
    which were chosen in this way before."""
    tune_only: tuple[str, ...] = ()
    """With --tune, choose only these settings, by name; the others keep their stored values. An
    unknown name prints the list."""

    @property
    def seeds(self) -> list[int]:
        """The seed of each run."""
        return list(range(self.seed, self.seed + self.runs))

    @property
    def names(self) -> tuple[str, ...]:
        """The methods of --methods, each once; ``all`` stands for all methods of the library.

        Raises:
          InputError: a name is unknown.
        """
        named, known = adapting.with_group(self.methods), adapting.method_names()
        named = [own for name in named for own in (METHODS if name == "all" else [name])]
        for name in named:
            if name not in known:
                listed = ", ".join(known)
                raise InputError(
                    f"--methods: unknown {name!r}; choose from {listed}, all, adapting"
                )
        return tuple(dict.fromkeys(named))


def start_settings(options: RunOptions, **own: Any) -> Settings:
    """The settings that all methods start from: the preset's, the command's own, those of --set.

    Raises:
      InputError: --set has an unknown name or an invalid value.
    """
    return replace(SETTINGS[options.preset], **{**own, **changed_settings(options.set)})


def check_options(options: RunOptions) -> None:
    """Refuses options that no run can have.

    Raises:
      InputError: there is one; the message names it.
    """
    _ = options.names  # raises for an unknown one
    terminal.check_minimum("--runs", options.runs, 1)
    terminal.check_minimum("--seed", options.seed, 0)
    terminal.check_minimum("--tune", options.tune, 0)
    for name in ("offline_examples", "online_examples"):
        if not 0 < (fraction := getattr(options, name)) <= 1:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option}: expected more than 0 and at most 1, got {fraction:g}")
    start_settings(options)  # raises for an unknown or invalid one
    if options.set and options.tune:
        raise InputError("--set: gives settings that --tune would choose; omit one of them")
    if options.tune_only and not options.tune:
        raise InputError("--tune-only: needs --tune, the number of trials")
    for name in options.tune_only:
        if name not in tuning.LADDERS:
            listed = ", ".join(tuning.LADDERS)
            raise InputError(f"--tune-only: unknown {name!r}; choose from {listed}")


def run_all(
    options: RunOptions,
    load: Load,
    *,
    world: str | None,
    settings: Settings,
    more_config: Mapping[str, Any],
    progress: Progress,
    published: str | None = None,
    campaigns: str = "campaigns",
) -> Comparison:
    """Tunes if asked to, and does every run of a command, each in its folder ``OUT/seed-R``.

    Args:
      options: options of the command.
      load: loads the data of a run.
      world: the world whose stored tuning is used without --tune or with --tune-only, see
        `tuning.tuned_before`; None for none. The official preset uses no stored tuning.
      settings: settings that all methods start from, from `start_settings`.
      more_config: whatever else must not change between a run and its resumption.
      progress: receives what is being done.
      published: as in `Comparison`.
      campaigns: what the title calls campaigns.

    Raises:
      InputError: the data cannot be trained on, or --resume does not fit the contents of OUT.
    """
    terminal.keep_compiled()
    load = _with_fewer_examples(load, options)
    first = load(options.seed, progress)
    first.check(settings)
    facts = first.describe()
    if not options.resume:
        _clear(options.out)
    elif not options.tune:
        # The first run must exist to be resumed; the others need not have begun.
        _require(options.out / f"seed-{options.seed}")

    def config(seed: int, data: Data) -> dict[str, Any]:
        content = content_digest(data.dataset, progress=progress)
        same = {"settings": asdict(settings), "seed": seed, **more_config, **data.describe()}
        return {**same, "data": {"name": data.dataset.name, "sha256": content}}

    tuned: tuning.Tuning = {}
    if options.preset == "paper" and (options.tune_only or not options.tune):
        tuned = tuning.tuned_before(world)
    if options.tune:
        tuned = _tune(options, first, settings, config(options.seed, first), tuned, progress)
    methods = _methods(options, settings, tuned)

    runs = []
    for seed in options.seeds:
        labelled = _labelled(progress, len(runs), options.runs)
        data = first if seed == options.seed else load(seed, labelled)
        data.check(settings)
        data = apart_from_held_out(data, settings, seed)
        directory = options.out / f"seed-{seed}"
        resume = options.resume and (directory / "config.json").is_file()
        open_run(directory, config(seed, data), resume=resume, allow_changes=options.allow_change)
        runs.append(
            run_methods(
                data,
                methods,
                seed=seed,
                directory=directory,
                progress=labelled,
                figures=seed == options.seed,
                allow_changes=options.allow_change,
            )
        )
    told = {"command": command_of(options), "tuned": tuning.describe(options.names, tuned)}
    return Comparison(
        title=title(facts, options.preset, options.runs, campaigns=campaigns),
        seeds=options.seeds,
        runs=runs,
        about={**facts, "preset": options.preset, **told},
        published=published,
        tuning=tuned if options.tune else None,
        independent_runs=first.independent_runs,
    )


def _with_fewer_examples(load: Load, options: RunOptions) -> Load:
    """A loader of the data with the fractions of examples that the options ask for."""
    fractions = options.offline_examples, options.online_examples
    return lambda seed, progress: load(seed, progress).with_fewer_examples(*fractions)


def _methods(options: RunOptions, settings: Settings, tuned: tuning.Tuning) -> list[Method]:
    """The methods with their chosen settings, which --set replaces."""
    changes = changed_settings(options.set)
    methods = [tuning.tuned_method(name, settings, tuned) for name in options.names]
    return [
        method.with_settings(**{name: changes[name] for name in changes if name in method.tuned})
        for method in methods
    ]


def _labelled(progress: Progress, number: int, runs: int) -> Progress:
    """Progress of one of several runs."""
    return progress if runs == 1 else prefixed(progress, f"run {number + 1} of {runs}, ")


def apart_from_held_out(data: Data, settings: Settings, seed: int) -> Data:
    """The data of a run, with nothing about users from the campaigns that `Method.fit` holds out.

    All methods get the same data, even those that hold nothing out.
    """
    if data.without is None or settings.offline_patience is None:
        return data
    return data.apart_from(hold_out_campaigns(data.dataset, data.split.train, seed)[1])


def _clear(out: Path) -> None:
    """Removes an older comparison, so that none of its runs is taken for a new one."""
    runs = [config.parent for config in out.glob("*/config.json")]
    runs = [run for run in runs if run.name == "tuning" or run.name.startswith("seed-")]
    for run in runs:
        clear_run(run)
    for name in OUTPUTS if runs else ():  # elsewhere, a results.json may belong to something else
        (out / name).unlink(missing_ok=True)


def _require(directory: Path) -> None:
    if not (directory / "config.json").is_file():
        raise InputError(f"{directory}: no run to resume; omit --resume to start one")


def _tune(
    options: RunOptions,
    data: Data,
    settings: Settings,
    config: dict[str, Any],
    before: tuning.Tuning,
    progress: Progress,
) -> tuning.Tuning:
    """Tunes on the first run's training campaigns; OUT/tuning stores the trials."""
    directory, config = options.out / "tuning", {**config, "tune_only": [*options.tune_only]}
    open_run(directory, config, resume=options.resume, allow_changes=options.allow_change)
    return tuning.tune(
        data,
        options.names,
        settings,
        max_trials=options.tune,
        origin=describe_origin(
            {"command": command_of(options), "data": data.dataset.name},
            [{"provenance": provenance()}],
        ),
        seed=options.seed,
        directory=directory,
        only=options.tune_only,
        before=before,
        allow_changes=options.allow_change,
        progress=progress,
    )
