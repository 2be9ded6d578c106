"""AUC over the size of the world, as a user draws it."""

import shutil
from dataclasses import replace

import commands
import numpy as np
from commands import contents, refuses, succeeds
from judged_runs import campaign, comparison, result, runs

from experiments.comparison import sizes
from experiments.comparison.results import store

COMMAND = commands.module(sizes)


def world(directory, users, *, seeds=(0,), **aucs):
    """A finished comparison; AUC is .1 higher on large seed sets, and by the random seed."""
    runs = [
        {
            name: result(
                name.upper(),
                [campaign(1, "small", auc + seed), campaign(2, "large", auc + seed + 0.1)],
            )
            for name, auc in aucs.items()
        }
        for seed in seeds
    ]
    directory.mkdir()
    of = replace(comparison(runs, about={"users": users}), seeds=list(seeds))
    store(directory, of, {})
    return directory


def test_a_line_has_the_worlds_by_size_in_which_a_method_is(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(sizes, "save_figure", lambda figure, _: figures.append(figure))
    large = world(tmp_path / "large", 11_400_000, lr=0.7, metaheac=0.74)
    small = world(tmp_path / "small", 600_000, lr=0.57, mmoe=0.6, metaheac=0.64)
    middle = world(tmp_path / "middle", 2_800_000, metaheac=0.71)
    succeeds(COMMAND, large, small, middle, "--out", tmp_path / "sizes.png")
    for axes, more in zip(figures[0].axes, (0.0, 0.1), strict=True):
        assert axes.get_xscale() == "log"
        ticks = [label.get_text() for label in axes.get_xticklabels()]
        assert ticks == ["600,000", "2,800,000", "11,400,000"]
        lines = {of.get_label(): of.lines[0].get_xydata() for of in axes.containers}
        assert {of.lines[0].get_linestyle() for of in axes.containers} == {"-"}
        assert set(lines) == {"LR", "METAHEAC"}  # MMoE is not among those that are shown
        expected = [(6e5, 0.64 + more), (2.8e6, 0.71 + more), (1.14e7, 0.74 + more)]
        np.testing.assert_allclose(lines["METAHEAC"], expected)
        np.testing.assert_allclose(lines["LR"], [(6e5, 0.57 + more), (1.14e7, 0.7 + more)])


def test_a_method_with_lengths_is_dashed_and_one_run_has_no_bar(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(sizes, "save_figure", lambda figure, _: drawn.append(figure))
    lengths = {"lr-lengths": 0.6}
    folders = [world(tmp_path / str(n), n, **lengths) for n in (1000, 2000)]
    succeeds(COMMAND, *folders, "--out", tmp_path / "sizes.png")
    [line] = drawn[0].axes[0].containers
    assert line.lines[0].get_linestyle() == "--"
    assert line.lines[0].get_color() == sizes.SHOWN["lr"]
    [bars] = line.lines[2]
    assert not np.concatenate(bars.get_segments()).size


def test_only_worlds_of_common_seeds_are_compared(tmp_path, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(sizes, "save_figure", lambda figure, _: drawn.append(figure))
    small = world(tmp_path / "small", 1000, seeds=(3, 0, 1), lr=0.5)
    large = world(tmp_path / "large", 2000, seeds=(1, 0), lr=0.6)
    succeeds(COMMAND, small, large, "--out", tmp_path / "sizes.png")
    [line] = drawn[0].axes[0].containers
    np.testing.assert_allclose(line.lines[0].get_xydata(), [(1000, 1.0), (2000, 1.1)])
    assert drawn[0].axes[0].get_ylabel().endswith("over seeds 0, 1")
    other = world(tmp_path / "other", 3000, seeds=(7,), lr=0.5)
    words = ("no random seed in common; run one seed at each size",)
    refuses(capsys, COMMAND, small, other, "--out", tmp_path / "sizes.png", words=words)


def test_the_figure_is_written(tmp_path):
    folders = [world(tmp_path / str(n), n, lr=0.6) for n in (1000, 2000)]
    succeeds(COMMAND, *folders, "--out", tmp_path / "sizes.png")
    assert (tmp_path / "sizes.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn(tmp_path, capsys):
    one = world(tmp_path / "one", 1000, lr=0.6, metaheac=0.7)
    same = world(tmp_path / "same", 1000, metaheac=0.7)
    out = ("--out", tmp_path / "sizes.png")
    refuses(capsys, COMMAND, one, *out, words=("at least two folders, got 1",))
    words = ("two comparisons of 1,000 users have the method metaheac",)
    refuses(capsys, COMMAND, one, same, *out, words=words)
    refuses(capsys, COMMAND, one, tmp_path / "none", *out, words=("none: no results.json",))
    (tmp_path / "real").mkdir()
    store(tmp_path / "real", comparison(runs()), {})
    refuses(capsys, COMMAND, one, tmp_path / "real", *out, words=("is not of simulated worlds",))
    store(tmp_path / "real", comparison(runs(), about={"users": 9, "preset": "official"}), {})
    refuses(capsys, COMMAND, one, tmp_path / "real", *out, words=("has another preset than",))
    about = {"users": 9}
    store(tmp_path / "real", comparison(runs(), about=about, independent_runs=False), {})
    refuses(capsys, COMMAND, one, tmp_path / "real", *out, words=("is not of simulated worlds",))
    others = [world(tmp_path / f"other{n}", n, mmoe=0.6) for n in (1, 2)]
    words = ("none of the methods that are drawn was run: lr, ",)
    refuses(capsys, COMMAND, *others, *out, words=words)
    shutil.rmtree(others[0])
    shutil.rmtree(others[1])
    words = ("--out", "is not a folder")
    refuses(capsys, COMMAND, one, same, "--out", tmp_path / "no" / "a.png", words=words)
    for name in ("sizes", "sizes.foo"):
        words = (f"{name}: expected a name that ends with .png or .pdf or .svg",)
        refuses(capsys, COMMAND, one, same, "--out", tmp_path / name, words=words)
    assert contents(tmp_path) == {"one", "same", "real"}
