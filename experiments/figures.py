"""Figures of a comparison: AUC by method and by seeds, and the panels of the paper's Figure 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

#: One run: ``{method: result}``, a result being what `job.judge_all` gives.
Run = Mapping[str, Mapping[str, Any]]

#: Methods that are told apart by colour.
SHOWN = {
    "lr": "tab:brown",
    "lightgbm": "tab:olive",
    "prior": "tab:purple",
    "mlp-pretraining": "tab:green",
    "without-meta": "tab:blue",
    "metaheac": "tab:orange",
    "ours": "tab:red",
    "oracle": "black",
}
BINS = 6  # of campaigns, by their seeds
LEAST_CAMPAIGNS = 5  # that a map of the campaigns needs


def draw(
    runs: Sequence[Run], summary: Mapping[str, Any], directory: Path, data: str, seed: int = 0
) -> dict[str, Path]:
    """Draws every figure that there is data for; their places, by caption.

    Args:
      runs: of a comparison. Curves and the campaigns' space are the first run's.
      summary: see `report.summarise`, in the order of a table.
      directory: where to.
      data: what the runs are of, for the titles.
      seed: of the first run.
    """
    first, figures, title = runs[0], {}, f"{data}, seed {seed}"
    everything = f"{data}, {len(runs)} runs" if len(runs) > 1 else title

    def place(caption: str, name: str) -> Path:
        figures[caption] = directory / name
        return directory / name

    figure_of_methods(summary, place("AUC by method", "auc.png"), everything)
    figure_by_seeds(runs, place("AUC by number of seeds", "auc_by_seeds.png"), everything)
    if any(result.get("curve") for result in first.values()):
        path = place("Loss and AUC over fine-tuning steps", "fine_tuning.png")
        figure_of_curves(first, path, title)
    space = first.get("metaheac", {}).get("space")
    if space and len(space["campaign"]) >= LEAST_CAMPAIGNS:
        path = place("t-SNE of the campaigns' mean seed representations", "space.png")
        figure_of_space(space, path, title)
        figure_of_gate(space, place("Mean critics' gate by campaign", "gate.png"), title)
    return figures


def figure_of_methods(summary: Mapping[str, Any], path: Path, title: str) -> None:
    """Mean AUC of every method, small and large seed sets; a bar is a deviation over the runs."""
    figure, panels = plt.subplots(
        1, 2, sharey=True, figsize=(9, 1 + 0.27 * len(summary)), layout="constrained"
    )
    places = range(len(summary))
    for axes, group in zip(panels, ("small", "large"), strict=True):
        for place, (name, entry) in enumerate(summary.items()):
            if value := entry[group].get("auc"):
                color = SHOWN.get(name, "0.5")
                axes.errorbar(value["mean"], place, xerr=value["std"], fmt="o", color=color)
        axes.axvline(0.5, color="0.8", linewidth=1, zorder=0)
        axes.grid(axis="x", color="0.9")
        axes.set(xlabel="AUC", title=f"{group} seed sets")
    panels[0].set_yticks(places, [entry["label"] for entry in summary.values()])
    panels[0].invert_yaxis()
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def figure_by_seeds(runs: Sequence[Run], path: Path, title: str) -> None:
    """Mean AUC of some methods over the number of seeds, from the test campaigns of all runs.

    A point is a sixth of the campaigns, by their seeds. Where none of these methods was run, all
    that were are drawn.
    """
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name in [name for name in SHOWN if name in runs[0]] or runs[0]:
        points = binned([c for run in runs for c in run[name]["campaigns"]])
        axes.plot(*points.T, "o-", color=SHOWN.get(name), label=runs[0][name]["label"])
    # A single number of seeds would leave no axis.
    seeds = [c["seeds"] for run in runs for result in run.values() for c in result["campaigns"]]
    axes.set_xlim(min(seeds, default=1) / 1.5, max(seeds, default=1) * 1.5)
    axes.set(xscale="log", xlabel="seeds of the campaign", ylabel="AUC on its pool", title=title)
    axes.xaxis.set_major_formatter(mpl.ticker.ScalarFormatter())
    axes.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    axes.grid(axis="y", color="0.9")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def binned(campaigns: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """(up to BINS, 2) geometric mean of the seeds and mean AUC, of parts of campaigns by seeds."""
    # Stable: among equal numbers of seeds, every method's points are of the same campaigns.
    ordered = sorted(campaigns, key=lambda c: c["seeds"])
    points = np.array([(np.log(c["seeds"]), c["auc"]) for c in ordered]).reshape(-1, 2)
    parts = [part.mean(axis=0) for part in np.array_split(points, BINS) if len(part)]
    return np.array([(np.exp(log), mean) for log, mean in parts]).reshape(-1, 2)


def figure_of_curves(run: Run, path: Path, title: str) -> None:
    """Loss and AUC of one test campaign over its fine-tuning steps (Figure 3 a, b)."""
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
    """t-SNE of every campaign's mean seed representation, coloured by category (Figure 3 c).

    Args:
      space: see `space.campaign_space`. Of its categories the 18 most frequent have a colour.
      path, title: of the figure.
    """
    from sklearn.manifold import TSNE  # takes a second to import

    points = np.array(space["representation"])
    perplexity = min(30.0, (len(points) - 1) / 3)
    place = TSNE(perplexity=perplexity, init="random", random_state=0).fit_transform(points)
    figure, axes = plt.subplots(figsize=(8, 6), layout="constrained")
    category = np.array(space["category"] or [""] * len(points))
    kinds, counts = np.unique(category, return_counts=True)
    colors = [c for c in plt.get_cmap("tab20").colors if np.ptp(c) > 0.01]  # pyrefly: ignore
    shown = kinds[np.argsort(-counts, kind="stable")][: len(colors)]  # grey is for the others
    rest = ~np.isin(category, shown)
    axes.scatter(*place[rest].T, s=18, color="0.8", label="others" if rest.any() else None)
    for kind, color in zip(shown, colors, strict=False):
        axes.scatter(*place[category == kind].T, s=18, color=color, label=kind or None)
    axes.set(title=title, xticks=[], yticks=[])
    if space["category"]:
        axes.legend(
            title="category", fontsize=7, ncols=2, loc="center left", bbox_to_anchor=(1, 0.5)
        )
    _save(figure, path)


def figure_of_gate(space: Mapping[str, Any], path: Path, title: str) -> None:
    """Mean weight of every critic in every campaign (Figure 3 d); alike campaigns are neighbours.

    Args:
      space: see `space.campaign_space`.
      path, title: of the figure.
    """
    gate = np.array(space["gate"]).T
    order = np.lexsort((-gate.max(axis=0), gate.argmax(axis=0)))
    figure, axes = plt.subplots(figsize=(10, 3), layout="constrained")
    image = axes.imshow(gate[:, order], aspect="auto", interpolation="nearest", vmin=0)
    axes.set(title=title, xlabel="campaigns, by their leading critic", ylabel="critic")
    axes.set_yticks(range(len(gate)), [str(j + 1) for j in range(len(gate))])
    figure.colorbar(image, label="mean weight")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=130)
    plt.close(figure)
