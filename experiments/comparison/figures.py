"""The figure of a comparison: AUC by number of seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from experiments.comparison.results import ORACLE, Comparison
from metaheac_jax.files import whole_file

#: Methods with their own colour, which their variants with list lengths share.
SHOWN = {
    "lr": "tab:brown",
    "mlp-pretraining": "tab:green",
    "without-meta": "tab:blue",
    "alpha-0": "tab:cyan",
    "metaheac": "tab:orange",
    "pooled-trees": "tab:olive",
    "solved-head": "tab:red",
    "learned-prior": "tab:purple",
    "ensemble": "tab:gray",
    "oracle of users, with seeds": "silver",
    "oracle": "black",
}
LENGTHS = "-lengths"  # suffix of the names of methods with list lengths
BINS = 6  # of campaigns, by number of seeds


def figure_by_seeds(of: Comparison, path: Path, title: str) -> None:
    """Mean AUC over the number of seeds, on the test campaigns of all runs.

    A point is the mean of one of `BINS` bins of campaigns. Methods with list lengths are dashed. If
    no method of `SHOWN` was run, all methods are drawn.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    known = [both for name in SHOWN for both in (name, name + LENGTHS) if both in of.methods]
    for name in known if {*known} - {ORACLE} else of.methods:
        line = "o--" if name.endswith(LENGTHS) else "o-"
        axes.plot(*binned(of, name).T, line, color=_color(name), label=of.label(name))
    seeds = [own for campaigns in of.campaigns for own in campaigns["seeds"]]
    # The margins give the axis a length even for a single number of seeds.
    axes.set_xlim(min(seeds, default=1) / 1.5, max(seeds, default=1) * 1.5)
    axes.set(xscale="log", xlabel="seeds of the campaign", ylabel="AUC on its pool", title=title)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", color="0.9")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=110, metadata={"Software": None})


def binned(of: Comparison, method: str) -> np.ndarray:
    """(up to BINS, 2) geometric mean of the numbers of seeds, and mean AUC, of each bin."""
    pairs: list[tuple[float, float]] = []
    for campaigns, result in zip(of.campaigns, of.methods[method]["runs"], strict=True):
        if result is not None:
            pairs += zip(np.log(campaigns["seeds"]), result.get("auc", []), strict=True)
    # The sort is stable, so that all methods have the same campaigns in a bin.
    points = np.array(sorted(pairs, key=lambda pair: pair[0])).reshape(-1, 2)
    means = [group.mean(axis=0) for group in np.array_split(points, BINS) if len(group)]
    return np.array([(np.exp(log), mean) for log, mean in means]).reshape(-1, 2)


def _color(method: str) -> str | None:
    return SHOWN.get(method.removesuffix(LENGTHS))
