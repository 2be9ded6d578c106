"""Figures of a comparison: those that there is something to draw for, and their points."""

import numpy as np
from judged_runs import comparison, result, runs
from rich.console import Console

from experiments.comparison import figures, report

FIGURES = ("auc.png", "auc_by_seeds.png")


def test_figures_are_drawn_if_there_is_something_to_draw(tmp_path):
    run = runs()[0]
    run["metaheac"] |= {
        "curve": {"campaign": 2, "steps": [0, 5], "loss": [0.7, 0.6], "auc": [0.5, 0.6]}
    }
    run["oracle"] = result("oracle", run["lr"]["campaigns"], small=0.9, large=0.9)
    empty = {"lr": result("LR", [], ((7, "3 candidates"),))}
    drawn = figures.draw([run], report.summarise([run]), tmp_path, "toy")
    assert [path.name for path in drawn.values()] == [*FIGURES, "fine_tuning.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn.values())
    assert len(figures.draw([empty], report.summarise([empty]), tmp_path, "toy")) == 2
    report.write(tmp_path, comparison([empty]), Console(quiet=True))
    assert "| LR | - | - | - | - | - | - | - | - |" in (tmp_path / "report.md").read_text()


def test_points_by_seeds_are_of_the_same_campaigns_for_every_method():
    seeds = [4, 9, 9, 9, 1, 9, 16, 25, 9, 9, 9, 9]
    one, two = ([{"seeds": n, "auc": a} for n, a in zip(seeds, aucs, strict=True)]
                for aucs in (np.arange(12) / 20, np.arange(12)[::-1] / 20))  # fmt: skip
    a, b = figures.binned(one), figures.binned(two)
    np.testing.assert_allclose(a[:, 0], [2, 9, 9, 9, 9, 20])
    np.testing.assert_allclose(a[0, 1], (0.0 + 0.2) / 2)
    # The second method's AUC is .55 less the first's in every campaign, and so in every part.
    np.testing.assert_allclose(a[:, 1] + b[:, 1], 0.55)
    assert figures.binned([]).shape == (0, 2)
