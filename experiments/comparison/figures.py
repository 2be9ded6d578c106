"""Figures of a comparison: AUC by method and by number of seeds, the offline stages, Figure 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes

from experiments.comparison.pages import save_figure
from experiments.comparison.results import ORACLE, Results

mpl.use("Agg")
import matplotlib.pyplot as plt

#: All files that `draw` may write.
FILES = ("auc.png", "auc_by_seeds.png", "training.png", "fine_tuning.png", "space.png", "gate.png")
#: Methods with their own colour, which their variants with list lengths share.
SHOWN = {
    "lr": "tab:brown",
    "lightgbm": "tab:olive",
    "prior": "tab:purple",
    "mlp-pretraining": "tab:green",
    "without-meta": "tab:blue",
    "alpha-0": "tab:cyan",
    "metaheac": "tab:orange",
    "seed-aware": "tab:pink",
    "solved-head": "tab:red",
    "ensemble": "tab:gray",
    "oracle": "black",
}
LENGTHS = "-lengths"  # suffix of the names of methods with list lengths
BINS = 6  # of campaigns, by number of seeds
MIN_CAMPAIGNS = 5  # for a t-SNE of the campaigns
ACROSS = 3  # methods side by side in the figure of the offline stages


def draw(
    runs: Sequence[Results], summary: Mapping[str, Any], directory: Path, data: str, seed: int = 0
) -> dict[str, Path]:
    """Draws the figures for which there is data.

    Args:
      runs: results of a comparison. Curves and the campaigns' space come from the first run.
      summary: see `results.summarise`, in the order of the figure.
      directory: where to write.
      data: name of the data, for titles.
      seed: seed of the first run.

    Returns:
      Paths of the figures by caption.
    """
    first, figures, title = runs[0], {}, f"{data}, seed {seed}"
    everything = f"{data}, {len(runs)} runs" if len(runs) > 1 else title

    def path_of(caption: str, name: str) -> Path:
        figures[caption] = directory / name
        return directory / name

    figure_of_methods(summary, path_of("AUC by method", "auc.png"), everything)
    figure_by_seeds(runs, path_of("AUC by number of seeds", "auc_by_seeds.png"), everything)
    if _judged_often(first):
        path = path_of("Held-out loss and AUC over offline steps", "training.png")
        figure_of_training(runs, path, everything)
    if any(result.get("curve") for result in first.values()):
        path = path_of("Loss and AUC over fine-tuning steps", "fine_tuning.png")
        figure_of_curves(first, path, title)
    space = first.get("metaheac", {}).get("space")
    if space and len(space["campaign"]) >= MIN_CAMPAIGNS:
        path = path_of("t-SNE of the campaigns' mean seed representations", "space.png")
        figure_of_space(space, path, title)
        figure_of_gate(space, path_of("Mean critics' gate by campaign", "gate.png"), title)
    return figures


def figure_of_methods(summary: Mapping[str, Any], path: Path, title: str) -> None:
    """Mean AUC of each method on small and large seed sets, and the deviation over the runs."""
    figure, panels = plt.subplots(
        1, 2, sharey=True, figsize=(9, 1 + 0.27 * len(summary)), layout="constrained"
    )
    positions = range(len(summary))
    for axes, group in zip(panels, ("small", "large"), strict=True):
        for position, (name, entry) in enumerate(summary.items()):
            if value := entry[group].get("auc"):
                color = _color(name) or "0.5"
                axes.errorbar(value["mean"], position, xerr=value["std"], fmt="o", color=color)
        axes.axvline(0.5, color="0.8", linewidth=1, zorder=0)
        axes.grid(axis="x", color="0.9")
        axes.set(xlabel="AUC, with its deviation over the runs", title=f"{group} seed sets")
    panels[0].set_yticks(positions, [entry["label"] for entry in summary.values()])
    panels[0].invert_yaxis()
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def figure_by_seeds(runs: Sequence[Results], path: Path, title: str) -> None:
    """Mean AUC of the methods of `SHOWN` over the number of seeds, on test campaigns of all runs.

    A point is the mean of one of `BINS` bins of campaigns. Methods with list lengths are dashed. If
    no method of `SHOWN` was run, all methods are drawn.
    """
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    known = [both for name in SHOWN for both in (name, name + LENGTHS) if both in runs[0]]
    for name in known if {*known} - {ORACLE} else runs[0]:
        points = binned([c for run in runs for c in run[name]["campaigns"]])
        line = "o--" if name.endswith(LENGTHS) else "o-"
        axes.plot(*points.T, line, color=_color(name), label=runs[0][name]["label"])
    # The margins give the axis a length even for a single number of seeds.
    seeds = [c["seeds"] for run in runs for result in run.values() for c in result["campaigns"]]
    axes.set_xlim(min(seeds, default=1) / 1.5, max(seeds, default=1) * 1.5)
    axes.set(xscale="log", xlabel="seeds of the campaign", ylabel="AUC on its pool", title=title)
    axes.xaxis.set_major_formatter(mpl.ticker.ScalarFormatter())
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.grid(axis="y", color="0.9")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def binned(campaigns: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(up to BINS, 2) geometric mean of the numbers of seeds, and mean AUC, of each bin."""
    # The sort is stable, so that all methods have the same campaigns in a bin.
    ordered = sorted(campaigns, key=lambda c: c["seeds"])
    points = np.array([(np.log(c["seeds"]), c["auc"]) for c in ordered]).reshape(-1, 2)
    means = [group.mean(axis=0) for group in np.array_split(points, BINS) if len(group)]
    return np.array([(np.exp(log), mean) for log, mean in means]).reshape(-1, 2)


def _judged_often(run: Results) -> list[str]:
    """Methods whose training was judged more than once, which an ensemble's is not."""
    return [name for name, of in run.items() if len(of.get("offline", {}).get("curve", ())) > 1]


def figure_of_training(runs: Sequence[Results], path: Path, title: str) -> None:
    """Loss and AUC of held-out training campaigns over offline steps, two panels per method.

    Each run is a line, with a dot at the step that was kept. A dashed line marks the ceiling if it
    is at most twice the last step.
    """
    names = _judged_often(runs[0])
    height, width = -(-len(names) // ACROSS), min(len(names), ACROSS)
    figure, grid = plt.subplots(
        height,
        2 * width,
        figsize=(5 * width, 1 + 1.8 * height),
        layout="constrained",
        squeeze=False,
    )
    panels = grid.reshape(-1, 2)
    for axes in panels[len(names) :].flat:
        axes.set_axis_off()
    for name, pair in zip(names, panels, strict=False):
        offline = [run[name]["offline"] for run in runs]
        for axes, column, measure in zip(pair, (1, 2), ("loss", "AUC"), strict=True):
            _draw_training(axes, offline, column, _color(name) or "0.4")
            axes.set_ylabel(measure, fontsize=7)
            if "ceiling" in offline[0]:
                axes.set_xlabel(f"ceiling {offline[0]['ceiling']:,}", fontsize=7)
            axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
            axes.xaxis.set_major_formatter("{x:,.0f}")
            axes.tick_params(labelsize=7)
        pair[0].set_title(runs[0][name]["label"], loc="left", fontsize=8)
    figure.suptitle(
        f"Held-out training campaigns over offline steps; dot: step kept, dashed: ceiling\n{title}",
        fontsize=10,
    )
    _save(figure, path)


def _draw_training(
    axes: Axes, offline: Sequence[Mapping[str, Any]], column: int, color: str
) -> None:
    """Draws one column of the runs' curves, whose first column is the step."""
    for of in offline:
        curve = np.array(of["curve"], float)
        axes.plot(curve[:, 0], curve[:, column], color=color, linewidth=1)
        best = curve[np.abs(curve[:, 0] - of["best_step"]).argmin()]
        axes.plot(best[0], best[column], "o", color=color, markersize=4)
    last = max(of["curve"][-1][0] for of in offline)
    ceilings = {of["ceiling"] for of in offline if of.get("ceiling", np.inf) <= 2 * last}
    for ceiling in ceilings:
        axes.axvline(ceiling, color="0.6", linestyle="--", linewidth=1)
    axes.set_xlim(0, 1.05 * max({last, *ceilings}))


def figure_of_curves(run: Results, path: Path, title: str) -> None:
    """Loss and AUC of one test campaign over the fine-tuning steps (Figure 3 a, b)."""
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    drawn = [result for result in run.values() if result.get("curve")]
    for result in drawn:
        curve = result["curve"]
        panels[0].plot(curve["steps"], curve["loss"], label=result["label"])
        panels[1].plot(curve["steps"], curve["auc"], label=result["label"])
    panels[0].set(xlabel="fine-tuning steps", ylabel="loss on the campaign's examples (nats)")
    panels[1].set(xlabel="fine-tuning steps", ylabel="AUC on the pool")
    panels[0].legend(fontsize=8)
    figure.suptitle(f"{title}, campaign {drawn[0]['curve']['campaign']}", fontsize=10)
    _save(figure, path)


def figure_of_space(space: Mapping[str, Any], path: Path, title: str) -> None:
    """t-SNE of each campaign's mean seed representation, coloured by category (Figure 3 c).

    The most frequent categories have a colour; the others are grey.

    Args:
      space: see `campaign_space.campaign_space`.
      path, title: path and title of the figure.
    """
    from sklearn.manifold import TSNE  # slow to import

    points = np.array(space["representation"])
    perplexity = min(30.0, (len(points) - 1) / 3)
    position = TSNE(perplexity=perplexity, init="random", random_state=0).fit_transform(points)
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    category = np.array(space["category"] or [""] * len(points))
    kinds, counts = np.unique(category, return_counts=True)
    colors = [c for c in plt.get_cmap("tab20").colors if np.ptp(c) > 0.01]  # pyrefly: ignore
    shown = kinds[np.argsort(-counts, kind="stable")][: len(colors)]
    rest = ~np.isin(category, shown)
    axes.scatter(*position[rest].T, s=18, color="0.8", label="others" if rest.any() else None)
    for kind, color in zip(shown, colors, strict=False):
        axes.scatter(*position[category == kind].T, s=18, color=color, label=kind or None)
    axes.set(title=title, xticks=[], yticks=[])
    if space["category"]:
        axes.legend(
            title="category", fontsize=7, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    _save(figure, path)


def figure_of_gate(space: Mapping[str, Any], path: Path, title: str) -> None:
    """Mean weight of each critic in each campaign (Figure 3 d), sorted by leading critic.

    Args:
      space: see `campaign_space.campaign_space`.
      path, title: path and title of the figure.
    """
    gate = np.array(space["gate"]).T
    order = np.lexsort((-gate.max(axis=0), gate.argmax(axis=0)))
    figure, axes = plt.subplots(figsize=(10, 3), layout="constrained")
    image = axes.imshow(gate[:, order], aspect="auto", interpolation="nearest", vmin=0)
    axes.set(title=title, xlabel="campaigns, by their leading critic", ylabel="critic")
    axes.set_yticks(range(len(gate)), [str(j + 1) for j in range(len(gate))])
    figure.colorbar(image, label="mean weight")
    _save(figure, path)


def _color(method: str) -> str | None:
    return SHOWN.get(method.removesuffix(LENGTHS))


def _save(figure: Any, path: Path) -> None:
    save_figure(figure, path)
    plt.close(figure)
