"""Joins finished comparisons to one, such as the runs of a command that were made apart.

``python -m experiments.comparison.join DIR DIR ... --out DIR``
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.comparison.report import write_files
from experiments.comparison.results import Comparison, load
from metaheac_jax.cli import terminal
from metaheac_jax.errors import InputError
from metaheac_jax.files import new_directory

#: Options of a command that say which runs and methods of a comparison it makes.
PARTS = ("--methods", "--runs", "--seed")


@dataclass(frozen=True)
class Options:
    """Joins comparisons that differ in their seeds or methods alone, without training."""

    directories: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Folders of finished comparisons, at least two: each the --out of a command, or a folder from
    `report --keep`."""
    out: Path
    """Folder for the results and their report, as from `report --keep`; one that is there is
    replaced."""
    methods: tuple[str, ...] = ()
    """Which to keep, by name. Default: all, and every run must have each of them."""


def main(options: Options) -> None:
    """Runs the command."""
    if len(options.directories) < 2:
        raise InputError(f"expected at least two folders, got {len(options.directories)}")
    found = {str(directory): load(directory) for directory in options.directories}
    joined, screen = join(found, options.methods), terminal.screen()
    with new_directory(options.out, marker="report.md") as directory:
        write_files(directory, joined, page=False, screen=screen)
    where = f"report.md, figures and results are in {options.out}; all of it may be committed"
    screen.print(where, markup=False, soft_wrap=True)


def join(found: Mapping[str, Comparison], methods: Sequence[str] = ()) -> Comparison:
    """One comparison of the runs and methods of several.

    Args:
      found: comparisons by where they are, for messages.
      methods: which to keep; all if there are none.

    Raises:
      InputError: commands differ in more than `PARTS`; a run has a method twice, lacks one, or is
        in two worlds; the settings of a method differ between runs; or a seed between others is
        missing.
    """
    commands = {where: _command(of) for where, of in found.items()}
    (first, (_, command)), *others = commands.items()
    for where, (_, other) in others:
        if other != command:
            raise InputError(
                f"{where}: made by `{shlex.join(other)}`, but {first} by `{shlex.join(command)}`; "
                f"only {', '.join(PARTS)} may differ"
            )
    runs: dict[int, dict[str, Any]] = {}
    for where, of in found.items():
        for seed, run in zip(of.seeds, of.runs, strict=True):
            for name, result in run.items():
                _add(runs.setdefault(seed, {}), name, result, f"{where}: run {seed}", methods)
    seeds = sorted(runs)
    if seeds != list(range(seeds[0], seeds[0] + len(seeds))):
        raise InputError(
            f"runs {', '.join(map(str, seeds))}: their seeds do not follow one another"
        )
    names = [name for name, result in runs[seeds[0]].items() if "settings" in result]
    for seed in seeds:
        _check_methods(runs[seed], [*names, *methods], seed, runs[seeds[0]])
    head = next(of for of in found.values() if of.seeds[0] == seeds[0])
    title = head.title.removesuffix(f", {len(head.runs)} runs")
    about = {
        "command": shlex.join(_joined(command, names, seeds)),
        "tuned": "; ".join(dict.fromkeys(of.about.get("tuned", "") for of in found.values())),
    }
    return Comparison(
        title=title + (f", {len(seeds)} runs" if len(seeds) > 1 else ""),
        seeds=seeds,
        runs=[{name: runs[seed][name] for name in runs[seeds[0]]} for seed in seeds],
        about={**head.about, **about},
        published=head.published,
        independent_runs=head.independent_runs,
    )


def _add(
    run: dict[str, Any], name: str, result: Mapping[str, Any], where: str, methods: Sequence[str]
) -> None:
    """Adds a result to a run, if it is wanted."""
    method = "settings" in result  # others are references, which every part of a run has
    if method and methods and name not in methods:
        return
    if name in run and (method or run[name]["campaigns"] != result["campaigns"]):
        why = "is in another folder too; give one" if method else "is another; so is its world"
        raise InputError(f"{where}: {name} {why}")
    other = next(iter(run.values()), result)
    if _judged(other) != _judged(result):
        raise InputError(
            f"{where}: {name} is judged on other campaigns or seeds than {next(iter(run))}, so it "
            "was run in another world; run it again in this one"
        )
    run[name] = result


def _judged(result: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    return [(of["campaign"], of["group"], of["seeds"]) for of in result["campaigns"]]


def _check_methods(
    run: Mapping[str, Any], names: Sequence[str], seed: int, first: Mapping[str, Any]
) -> None:
    """Refuses a run without one of the methods, with others, or with another's settings."""
    own = [name for name, result in run.items() if "settings" in result]
    for name in dict.fromkeys([*names, *own]):
        for of in (run, first):
            if name not in of:
                which = seed if of is run else "of the least seed"
                raise InputError(f"run {which}: no {name}; add it, or leave it out by --methods")
        ours, theirs = (of[name]["settings"] for of in (run, first))
        for key in ours.keys() | theirs.keys():
            if ours.get(key) != theirs.get(key):
                raise InputError(
                    f"run {seed}: {name} has the {key} {ours.get(key)}, and {theirs.get(key)} in "
                    "another run; run one of them again"
                )


def _command(comparison: Comparison) -> tuple[list[str], list[str]]:
    """The words of a comparison's command that are of `PARTS`, and the others."""
    words = shlex.split(comparison.about.get("command", ""))
    parts, others = [], []
    while words:
        option = words.pop(0)
        values = list(takewhile(lambda word: not word.startswith("--"), words))
        words = words[len(values) :]
        (parts if option in PARTS else others).extend([option, *values])
    return parts, others


def _joined(others: Sequence[str], names: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """The command that makes these runs of these methods."""
    parts = ["--methods", *names]
    parts += ["--runs", str(len(seeds))] if len(seeds) > 1 else []
    parts += ["--seed", str(seeds[0])] if seeds[0] else []
    return [*others[:3], *parts, *others[3:]]


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.comparison.join")
