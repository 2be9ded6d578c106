"""Joining comparisons, as a user does it who ran the seeds of a command apart."""

import commands
import pytest
from commands import contents, refuses, succeeds
from judged_runs import campaign, result

from experiments.comparison import join
from experiments.comparison.results import Comparison, load, store

COMMAND = commands.module(join)
RUN = "python -m experiments.tencent --methods {methods} --seed {seed} --users 1000"


def method(name, auc, *, seeds=0, **settings):
    """A method's result on a small campaign and a large one."""
    judged = [campaign(1, "small", auc), campaign(2, "large", auc + 0.1)]
    judged[0]["seeds"] += seeds
    more = {"settings": settings or {"width": 16}, "seconds": {"train": 1.0}}
    return {**result(name.upper(), judged, small=auc, large=auc), **more}


def reference(auc):
    return result("oracle", [campaign(1, "small", auc), campaign(2, "large", auc)])


def made(directory, seed, methods, *, oracle=0.9, command=RUN):
    """A finished run; the AUCs of references belong to its world."""
    names = [name for name, of in methods.items() if "settings" in of]
    command = command.format(methods=" ".join(names), seed=seed)
    about = {"data": f"world {seed}", "users": 1000, "command": command, "tuned": "by hand"}
    run = {**methods, "oracle": reference(oracle)}
    directory.mkdir()
    store(directory, Comparison(f"world {seed}", [seed], [run], about), {})
    return directory


def test_runs_and_methods_of_a_command_are_joined(tmp_path):
    later = made(tmp_path / "b", 1, {"lr": method("lr", 0.6), "mmoe": method("mmoe", 0.7)})
    some = made(tmp_path / "a", 0, {"lr": method("lr", 0.5)})
    others = made(tmp_path / "c", 0, {"mmoe": method("mmoe", 0.8)})
    succeeds(COMMAND, later, some, others, "--out", tmp_path / "out")
    joined = load(tmp_path / "out")
    assert joined.seeds == [0, 1]
    assert joined.title == "world 0, 2 runs"
    aucs = [{name: of["campaigns"][0]["auc"] for name, of in run.items()} for run in joined.runs]
    assert aucs == [
        {"lr": 0.5, "oracle": 0.9, "mmoe": 0.8},
        {"lr": 0.6, "oracle": 0.9, "mmoe": 0.7},
    ]
    command = "python -m experiments.tencent --methods lr mmoe --runs 2 --users 1000"
    assert joined.about == {
        "data": "world 0",
        "users": 1000,
        "command": command,
        "tuned": "by hand",
    }
    assert contents(tmp_path / "out") >= {"report.md", "results.json", "auc.png"}
    assert command in (tmp_path / "out" / "report.md").read_text()


def test_methods_may_be_left_out(tmp_path):
    first = made(tmp_path / "a", 4, {"lr": method("lr", 0.6), "mmoe": method("mmoe", 0.7)})
    second = made(tmp_path / "b", 5, {"lr": method("lr", 0.5)})
    succeeds(COMMAND, first, second, "--out", tmp_path / "out", "--methods", "lr")
    joined = load(tmp_path / "out")
    assert [set(run) for run in joined.runs] == [{"lr", "oracle"}] * 2
    command = "python -m experiments.tencent --methods lr --runs 2 --seed 4 --users 1000"
    assert joined.about["command"] == command


LR = {"lr": method("lr", 0.6)}
OTHER_METHOD = {"mmoe": method("mmoe", 0.6)}


@pytest.mark.parametrize(
    ("seed", "methods", "more", "words"),
    [
        (0, LR, {}, ("b: run 0: lr is in another folder too; give one",)),
        (0, OTHER_METHOD, {"oracle": 0.8}, ("b: run 0: oracle is another; so is its world",)),
        (
            0,
            {"mmoe": method("mmoe", 0.6, seeds=1)},
            {},
            ("b: run 0: mmoe is judged on other campaigns or seeds than lr", "in another world"),
        ),
        (1, OTHER_METHOD, {}, ("run 1: no lr; add it, or leave it out by --methods",)),
        (1, LR | OTHER_METHOD, {}, ("run of the least seed: no mmoe",)),
        (1, {"lr": method("lr", 0.6, width=8)}, {}, ("run 1: lr has the width 8, and 16 in",)),
        (2, LR, {}, ("runs 0, 2: their seeds do not follow",)),
        (1, LR, {"command": RUN + " --split paper"}, ("b: made by", "only --methods, --runs")),
    ],
)
def test_what_cannot_be_joined(tmp_path, capsys, seed, methods, more, words):
    first = made(tmp_path / "a", 0, LR)
    second = made(tmp_path / "b", seed, methods, **more)
    refuses(capsys, COMMAND, first, second, "--out", tmp_path / "out", words=words)
    assert "out" not in contents(tmp_path)


def test_what_is_no_comparison(tmp_path, capsys):
    first = made(tmp_path / "a", 0, LR)
    out = ("--out", tmp_path / "out")
    refuses(capsys, COMMAND, first, *out, words=("at least two folders, got 1",))
    refuses(capsys, COMMAND, first, tmp_path / "none", *out, words=("none: no results.json",))
    unknown = ("--methods", "lr", "mmoe")
    second = made(tmp_path / "b", 1, LR)
    words = ("run 0: no mmoe; add it, or leave it out",)
    refuses(capsys, COMMAND, first, second, *out, *unknown, words=words)
