"""Figures of a comparison: those that there is something to draw for, and their points."""

import numpy as np
from judged_runs import comparison, result, runs
from rich.console import Console

from experiments.comparison import figures, report
from experiments.comparison.results import summarise

FIGURES = ("auc.png", "auc_by_seeds.png")


def test_figures_are_drawn_if_there_is_something_to_draw(tmp_path):
    run = runs()[0]
    run["metaheac"] |= {
        "curve": {"campaign": 2, "steps": [0, 5], "loss": [0.7, 0.6], "auc": [0.5, 0.6]},
        "offline": {"best_step": 20, "ceiling": 90, "curve": [[20, 0.7, 0.5], [40, 0.7, 0.4]]},
    }
    run["oracle"] = result("oracle", run["lr"]["campaigns"], small=0.9, large=0.9)
    empty = {"lr": result("LR", [], ((7, "3 candidates"),))}
    drawn = figures.draw([run], summarise([run]), tmp_path, "toy")
    assert [path.name for path in drawn.values()] == [*FIGURES, "training.png", "fine_tuning.png"]
    assert {path.name for path in drawn.values()} < set(figures.FILES)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn.values())
    assert len(figures.draw([empty], summarise([empty]), tmp_path, "toy")) == 2
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


def test_methods_with_lengths_are_beside_those_without(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, _: drawn.append(figure))
    run = runs()[0]
    both = {"metaheac": run["metaheac"], "metaheac-lengths": run["metaheac"] | {"label": "longer"}}
    figures.figure_by_seeds([{"mmoe": run["lr"], **both}], tmp_path / "by_seeds.png", "toy")
    plain, longer = drawn[0].axes[0].lines
    assert [line.get_label() for line in (plain, longer)] == ["MetaHeac", "longer"]
    assert plain.get_color() == longer.get_color() == figures.SHOWN["metaheac"]
    assert [line.get_linestyle() for line in (plain, longer)] == ["-", "--"]


def test_where_none_is_shown_all_are_drawn_beside_the_oracle(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, _: drawn.append(figure))
    run = runs()[0]
    references = {"mmoe": run["lr"] | {"label": "MMoE"}, "oracle": run["lr"] | {"label": "oracle"}}
    figures.figure_by_seeds([references], tmp_path / "by_seeds.png", "toy")
    assert [line.get_label() for line in drawn[0].axes[0].lines] == ["MMoE", "oracle"]


def offline(best, ceiling, *curve):
    return {"offline": {"best_step": best, "ceiling": ceiling, "curve": list(curve)}}


def test_offline_stages_have_a_line_per_run_their_best_step_and_the_ceiling(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, _: drawn.append(figure))
    curves = [
        offline(20, 70, [10, 0.7, 0.5], [20, 0.6, 0.6], [40, 0.65, 0.55]),
        offline(10, 70, [10, 0.8, 0.4], [20, 0.9, 0.3]),
    ]
    once = {"label": "Ensemble", "offline": {"best_step": 40, "curve": [[40, 0.7, 0.5]]}}
    far = [offline(10, ceiling, [10, 0.7, 0.5], [20, 0.6, 0.6]) for ceiling in (5000, 6000)]
    results = [
        {"lr": {"label": "LR"}, "mmoe": {"label": "MMoE", **f}, "alpha-0": {"label": "0", **of}}
        | {"ensemble": once}
        for f, of in zip(far, curves, strict=True)
    ]
    figures.figure_of_training(results, tmp_path / "training.png", "toy")
    panels = drawn[0].axes  # LR has no offline stage, and the ensemble was judged only once
    assert [axes.get_title("left") for axes in panels] == ["MMoE", "", "0", ""]
    assert [axes.get_ylabel() for axes in panels] == ["loss", "AUC"] * 2
    for axes, column in zip(panels[2:], (1, 2), strict=True):
        lines = [line.get_xydata().tolist() for line in axes.lines]
        for run, of in enumerate(curves):
            curve = of["offline"]["curve"]
            whole, best = lines[2 * run : 2 * run + 2]
            assert whole == [[step[0], step[column]] for step in curve]
            assert best == [[curve[1 - run][0], curve[1 - run][column]]]
        assert [[x for x, _ in line] for line in lines[4:]] == [[70, 70]]
    # A far ceiling is named and does not press the curves together.
    assert panels[2].get_xlim()[1] > 70
    assert panels[0].get_xlim()[1] < 25
    assert panels[0].get_xlabel() == "ceiling 5,000"
