"""A figure of AUC over the size of the world, from finished comparisons.

``python -m experiments.comparison.sizes DIR DIR ... --out FIGURE``
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
import tyro

from experiments.comparison.figures import LENGTHS, SHOWN
from experiments.comparison.pages import save_figure
from experiments.comparison.results import GROUPS, Comparison, load, summarise
from metaheac_jax.cli import terminal
from metaheac_jax.errors import InputError

mpl.use("Agg")
import matplotlib.pyplot as plt

FORMATS = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Options:
    """Draws the mean AUC of each method over the number of users of the world.

    The mean is over the random seeds that all folders have.
    """

    directories: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIRECTORY DIRECTORY ...")
    ]
    """Folders of finished comparisons on worlds of different sizes, at least two: each the --out of
    a command, or a folder from `report --keep`."""
    out: Path
    """The figure to write; its ending (.png, .pdf, .svg) is the format."""


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_output("--out", options.out, endings=FORMATS)
    if len(options.directories) < 2:
        raise InputError(f"expected at least two folders, got {len(options.directories)}")
    comparisons = [load(directory) for directory in options.directories]
    draw_sizes(comparisons, options.out)
    terminal.screen().print(f"the figure is {options.out}", markup=False, soft_wrap=True)


def draw_sizes(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draws one line per method of `figures.SHOWN`, with the deviation over the worlds.

    Worlds of one random seed have the same campaigns at every size, and some campaigns are easier
    than others, so only the seeds that all comparisons have are drawn. The lines of methods with
    list lengths are dashed.

    Raises:
      InputError: a comparison is not of simulated worlds, the presets differ, the comparisons have
        no seed in common, two of one size have a method in common, or none has a method that is
        shown.
    """
    for comparison in comparisons:
        about, first = comparison.about, comparisons[0].about
        if "users" not in about or not comparison.independent_runs:
            raise InputError(f"{comparison.title}: is not of simulated worlds, which have sizes")
        if about.get("preset") != first.get("preset"):
            raise InputError(f"{comparison.title}: has another preset than {comparisons[0].title}")
    ordered = sorted(comparisons, key=lambda comparison: comparison.about["users"])
    users = [comparison.about["users"] for comparison in ordered]
    common = set.intersection(*(set(comparison.seeds) for comparison in ordered))
    if not common:
        raise InputError("the comparisons have no random seed in common; run one seed at each size")
    summaries = [
        summarise([run for seed, run in zip(of.seeds, of.runs, strict=True) if seed in common])
        for of in ordered
    ]
    figure, panels = plt.subplots(1, 2, sharey=True, figsize=(10, 4.5), layout="constrained")
    shown = [name + end for name in SHOWN for end in ("", LENGTHS)]
    if not any(name in of for name in shown for of in summaries):
        raise InputError(f"none of the methods that are drawn was run: {', '.join(SHOWN)}")
    for name in shown:
        found = [(size, of[name]) for size, of in zip(users, summaries, strict=True) if name in of]
        sizes = [size for size, _ in found]
        if len(set(sizes)) < len(sizes):
            twice = next(size for size in sizes if sizes.count(size) > 1)
            raise InputError(f"two comparisons of {twice:,} users have the method {name}; give one")
        for axes, group in zip(panels, GROUPS, strict=True):
            points = [(size, of[group]["auc"]) for size, of in found if "auc" in of[group]]
            if points:
                at, values = zip(*points, strict=True)
                deviations = [value["std"] or np.nan for value in values]  # a single run has none
                axes.errorbar(
                    at,
                    [value["mean"] for value in values],
                    yerr=deviations,
                    fmt="o--" if name.endswith(LENGTHS) else "o-",
                    color=SHOWN[name.removesuffix(LENGTHS)],
                    capsize=3,
                    label=found[-1][1]["label"],
                )
    for axes, group in zip(panels, GROUPS, strict=True):
        axes.set(xscale="log", xlabel="users of the world", title=f"{group} seed sets")
        axes.set_xticks(sorted(set(users)), [f"{size:,}" for size in sorted(set(users))])
        axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
        axes.grid(axis="y", color="0.9")
    listed = ", ".join(map(str, sorted(common)))
    panels[0].set_ylabel(f"AUC on the pools, with its deviation over seeds {listed}")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=8)
    save_figure(figure, path)
    plt.close(figure)


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.comparison.sizes")
