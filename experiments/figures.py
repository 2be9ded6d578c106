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

#: Whose fine-tuning the paper draws.
CURVES = ("mlp-one-stage", "hubble", "mmoe", "metaheac")


def draw(run: Run, directory: Path, title: str) -> dict[str, Path]:
    """Draws every figure that a run has data for; their places, by caption."""
    figures = {"AUC by number of seeds": directory / "auc_by_seeds.png"}
    figure_by_seeds(run, directory / "auc_by_seeds.png", title)
    if any(run.get(name, {}).get("curve") for name in CURVES):
        figures["Loss and AUC over fine-tuning steps"] = directory / "fine_tuning.png"
        figure_of_curves(run, directory / "fine_tuning.png", title)
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
    drawn = [run[name] for name in CURVES if run.get(name, {}).get("curve")]
    for result in drawn:
        curve = result["curve"]
        panels[0].plot(curve["steps"], curve["loss"], label=result["label"])
        panels[1].plot(curve["steps"], curve["auc"], label=result["label"])
    panels[0].set(xlabel="fine-tuning steps", ylabel="loss on the pool (nats)")
    panels[1].set(xlabel="fine-tuning steps", ylabel="AUC on the pool")
    panels[0].legend(fontsize=8)
    figure.suptitle(f"{title}, campaign {drawn[0]['curve']['campaign']}", fontsize=10)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=130)
    plt.close(figure)
