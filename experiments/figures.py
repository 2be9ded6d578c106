"""The figures of a comparison: AUC by seeds, and the four panels of the paper's Figure 3."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
import matplotlib.pyplot as plt

#: One run: ``{method: result}``, a result being what `job.judge_all` gives.
Run = Mapping[str, Mapping[str, Any]]

LEAST_CAMPAIGNS = 5  # that a map of the campaigns needs


def draw(run: Run, directory: Path, title: str) -> dict[str, Path]:
    """Draws every figure that a run has data for; their places, by caption."""
    figures = {"AUC by number of seeds": directory / "auc_by_seeds.png"}
    figure_by_seeds(run, directory / "auc_by_seeds.png", title)
    if any(result.get("curve") for result in run.values()):
        figures["Loss and AUC over fine-tuning steps"] = directory / "fine_tuning.png"
        figure_of_curves(run, directory / "fine_tuning.png", title)
    space = run.get("metaheac", {}).get("space")
    if space and len(space["campaign"]) >= LEAST_CAMPAIGNS:
        figures["t-SNE of the campaigns' mean seed representations"] = directory / "space.png"
        figure_of_space(space, directory / "space.png", title)
        figures["Mean critics' gate by campaign"] = directory / "gate.png"
        figure_of_gate(space, directory / "gate.png", title)
    return figures


def figure_by_seeds(run: Run, path: Path, title: str) -> None:
    """AUC of each test campaign by its number of seeds, a colour a method."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    colors = plt.get_cmap("tab20").colors  # pyrefly: ignore
    for number, (name, result) in enumerate(run.items()):
        points = np.array([(c["seeds"], c["auc"]) for c in result["campaigns"]]).reshape(-1, 2)
        color = "0.7" if name == "oracle" else colors[number % len(colors)]
        axes.scatter(points[:, 0], points[:, 1], s=16, color=color, label=result["label"])
    axes.set(xscale="log", xlabel="seeds of the campaign", ylabel="AUC on its pool", title=title)
    axes.axhline(0.5, color="0.8", linewidth=1, zorder=0)
    axes.legend(fontsize=8, ncols=2)
    _save(figure, path)


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
