"""Joins finished comparisons into one, such as runs of a command that were done separately.

``python -m experiments.comparison.join DIR DIR ... --out DIR``
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.comparison.report import keep
from experiments.comparison.results import Comparison, load
from experiments.comparison.tuning import NOT_TUNED
from metaheac_jax.cli import terminal
from metaheac_jax.errors import InputError

#: Options of a command that choose the runs and methods of a comparison.
PARTS = ("--methods", "--runs", "--seed")
#: Facts that must be the same in the descriptions of all comparisons.
ALIKE = ("preset", "campaigns", "train_campaigns", "test_campaigns")


@dataclass(frozen=True)
class Options:
    """Joins comparisons that differ only in their seeds or methods, without training."""

    directories: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIRECTORY DIRECTORY ...")
    ]
    """Folders of finished comparisons, at least two: each the --out of a command, or a folder from
    `report --keep`."""
    out: Path
    """Folder for the results and their report, as from `report --keep`; one that is there, with
    nothing else in it, is replaced."""
    methods: tuple[str, ...] = ()
    """Which to keep, by name. Default: all, and every run must have each of them."""


def main(options: Options) -> None:
    """Runs the command."""
    if len(options.directories) < 2:
        raise InputError(f"expected at least two folders, got {len(options.directories)}")
    out, found = options.out.resolve(), {}
    for directory in options.directories:
        place = directory.resolve()
        if place == out or out in place.parents:
            raise InputError(f"--out: {options.out} would replace {directory}; give another")
        if place in found:
            raise InputError(f"{directory}: given twice")
        found[place] = load(directory)
    joined, screen = (
        join({str(at): of for at, of in found.items()}, options.methods),
        terminal.screen(),
    )
    keep(options.out, joined, screen)


def join(found: Mapping[str, Comparison], methods: Sequence[str] = ()) -> Comparison:
    """One comparison with the runs and methods of several.

    Args:
      found: comparisons by folder, which messages name.
      methods: names of the methods to keep; empty keeps all.

    Raises:
      InputError: commands or data differ in more than `PARTS`; a comparison has its own tuning; a
        run has a method twice, lacks one, or is in two worlds; the settings of a method differ
        between runs, or the ceiling or patience of training between methods; or a seed between
        others is missing.
    """
    command = _common_command(found)
    runs: dict[int, _Run] = {}
    for where, of in found.items():
        for seed, run in zip(of.seeds, of.runs, strict=True):
            own = runs.setdefault(seed, _Run(seed))
            for name, result in run.items():
                if not (methods and _is_method(result) and name not in methods):
                    own.add(name, result, where)
    seeds = sorted(runs)
    if seeds != list(range(seeds[0], seeds[0] + len(seeds))):
        listed = ", ".join(map(str, seeds))
        raise InputError(f"runs {listed}: their seeds do not follow one another")
    first = runs[seeds[0]]
    first.check_lengths()
    for seed in seeds:
        first.check_same(runs[seed], methods)
    names = [name for name, result in first.results.items() if _is_method(result)]
    head = next(of for of in found.values() if of.seeds[0] == seeds[0])
    title = head.title.removesuffix(f", {len(head.runs)} runs")
    return Comparison(
        title=title + (f", {len(seeds)} runs" if len(seeds) > 1 else ""),
        seeds=seeds,
        runs=[{name: runs[seed].results[name] for name in first.results} for seed in seeds],
        about={
            **head.about,
            "command": shlex.join(_with_parts(command, names, seeds)),
            "tuned": _tuned(found, names),
        },
        published=head.published,
        independent_runs=head.independent_runs,
    )


@dataclass
class _Run:
    """The results that were found for a run.

    Attributes:
      seed: seed of the run.
      results: results of methods and of references, by name.
      places: where each result was found.
    """

    seed: int
    results: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, result: Mapping[str, Any], where: str) -> None:
        """Adds a result, and refuses one of another world or a method that is there already."""
        for known, other in self.results.items():
            both = f"{where}: run {self.seed}: {name}"
            if known == name and _is_method(result):
                raise InputError(f"{both} is in {self.places[name]} too; give one of them")
            same = known != name or result["campaigns"] == other["campaigns"]
            if not same or _judged(result) != _judged(other):
                raise InputError(
                    f"{both} does not fit {known} of {self.places[known]}: their campaigns or "
                    "seeds differ, so these are two worlds; run one of them again"
                )
        self.results[name], self.places[name] = result, where

    def check_lengths(self) -> None:
        """Refuses methods whose trainings had different ceilings or a different patience."""
        trained = [name for name, of in self.results.items() if of.get("offline")]
        for key in ("offline_epochs", "offline_patience"):
            for name in trained:
                ours, theirs = (self.results[of]["settings"].get(key) for of in (name, trained[0]))
                if ours != theirs:
                    raise InputError(
                        f"{key} is {ours} of {name} and {theirs} of {trained[0]}, so their "
                        "trainings ended by different rules; run one of them again"
                    )

    def check_same(self, other: _Run, wanted: Sequence[str]) -> None:
        """Refuses another run unless it has the same methods with the same settings."""
        for name in dict.fromkeys([*wanted, *self.results, *other.results]):
            for run in (self, other):
                if name not in run.results or (
                    name in wanted and not _is_method(run.results[name])
                ):
                    raise InputError(
                        f"run {run.seed}: has no method {name}; add its results, or give --methods "
                        "without it"
                    )
            ours, theirs = (run.results[name].get("settings", {}) for run in (self, other))
            for key in {**ours, **theirs}:
                values = [settings.get(key, "no value") for settings in (ours, theirs)]
                if values[0] != values[1]:
                    raise InputError(
                        f"{name}: {key} is {values[0]} in run {self.seed} and {values[1]} in run "
                        f"{other.seed}; run one of them again"
                    )


def _is_method(result: Mapping[str, Any]) -> bool:
    """Whether a result is a method's; every part of a run also has the references'."""
    return "settings" in result


def _judged(result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [(of["campaign"], of["group"], of["seeds"]) for of in result["campaigns"]]


def _common_command(found: Mapping[str, Comparison]) -> list[str]:
    """The words of the comparisons' command without `PARTS`."""
    first, command, facts = "", list[str](), dict[str, Any]()
    for where, of in found.items():
        if "command" not in of.about:
            raise InputError(f"{where}: its results do not say which command made them")
        if of.tuning is not None:
            raise InputError(f"{where}: has a tuning of its own; join runs that use a stored one")
        own = {name: of.about.get(name) for name in ALIKE}
        own |= {"published": of.published, "independent_runs": of.independent_runs}
        words = _without_parts(of.about["command"])
        if not first:
            first, command, facts = where, words, own
        if words != command:
            raise InputError(
                f"{where}: made by `{shlex.join(words)}`, but {first} by `{shlex.join(command)}`; "
                f"only {', '.join(PARTS)} may differ"
            )
        for name, value in own.items():
            if value != facts[name]:
                raise InputError(f"{where}: {name} is {value}, but {facts[name]} in {first}")
    return command


def _without_parts(command: str) -> list[str]:
    words, others = shlex.split(command), []
    while words:
        option = words.pop(0)
        values = list(takewhile(lambda word: not word.startswith("--"), words))
        words = words[len(values) :]
        others += [] if option in PARTS else [option, *values]
    return others


def _with_parts(others: Sequence[str], names: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """The command that makes these runs of these methods."""
    parts = ["--methods", *names]
    parts += ["--runs", str(len(seeds))]
    parts += ["--seed", str(seeds[0])] if seeds[0] else []
    return [*others[:3], *parts, *others[3:]]


def _tuned(found: Mapping[str, Comparison], names: Sequence[str]) -> str:
    """Where the settings come from: once for all methods, or for the methods of each origin."""
    told: dict[str, list[str]] = {}
    for of in found.values():
        text, _, untuned = of.about.get("tuned", "settings of unknown origin").partition(NOT_TUNED)
        kept = [name for name in untuned.split(", ") if name in names]
        own = told.setdefault(text + (NOT_TUNED + ", ".join(kept) if kept else ""), [])
        own += [name for name in names if name in of.runs[0] and name not in own]
    if len(told) == 1:
        return next(iter(told))
    return "; ".join(f"{', '.join(own)}: {text}" for text, own in told.items() if own)


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.comparison.join")
