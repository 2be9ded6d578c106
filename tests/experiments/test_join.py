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


def made(directory, seed, methods, *, oracle=0.9, command=RUN, **more):
    """A finished run; the AUCs of references belong to its world."""
    names = [name for name, of in methods.items() if "settings" in of]
    kept = {name: more.pop(name) for name in ("tuning", "independent_runs") if name in more}
    about = {"data": f"world {seed}", "preset": "paper", "tuned": "by hand", **more}
    if command is not None:
        about["command"] = command.format(methods=" ".join(names), seed=seed)
    run = methods if oracle is None else {**methods, "oracle": reference(oracle)}
    directory.mkdir(parents=True)
    store(directory, Comparison(f"world {seed}", [seed], [run], about, **kept), {})
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
        "preset": "paper",
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


def test_the_command_of_a_single_run_says_so(tmp_path):
    """Some commands make several without being asked."""
    parts = [made(tmp_path / name, 0, {name: method(name, 0.5)}) for name in ("lr", "mmoe")]
    succeeds(COMMAND, *parts, "--out", tmp_path / "out")
    assert " --methods lr mmoe --runs 1 " in load(tmp_path / "out").about["command"]


def test_what_was_joined_is_joined_again(tmp_path):
    parts = [made(tmp_path / str(n), n, {"lr": method("lr", 0.5)}) for n in range(3)]
    succeeds(COMMAND, *parts[:2], "--out", tmp_path / "two")
    assert load(tmp_path / "two").title == "world 0, 2 runs"
    succeeds(COMMAND, tmp_path / "two", parts[2], "--out", tmp_path / "three")
    joined = load(tmp_path / "three")
    assert joined.title == "world 0, 3 runs"
    assert joined.seeds == [0, 1, 2]
    assert "--runs 3" in joined.about["command"]


def test_tuning_of_parts_is_told_by_method(tmp_path):
    first = made(tmp_path / "a", 0, {"lr": method("lr", 0.6)}, tuned="not tuned")
    second = made(tmp_path / "b", 0, {"mmoe": method("mmoe", 0.7)})
    succeeds(COMMAND, first, second, "--out", tmp_path / "out")
    assert load(tmp_path / "out").about["tuned"] == "lr: not tuned; mmoe: by hand"


def test_tuning_of_what_is_left_out_is_not_told(tmp_path):
    both = {"lr": method("lr", 0.6), "mmoe": method("mmoe", 0.7)}
    first = made(tmp_path / "a", 0, both, tuned="by hand; not tuned: mmoe")
    second = made(tmp_path / "b", 1, {"lr": method("lr", 0.6)}, tuned="by hand")
    succeeds(COMMAND, first, second, "--out", tmp_path / "out", "--methods", "lr")
    assert load(tmp_path / "out").about["tuned"] == "by hand"


LR = {"lr": method("lr", 0.6)}
MMOE = {"mmoe": method("mmoe", 0.6)}
ANOTHER = {"mmoe": method("mmoe", 0.6, seeds=1)}


@pytest.mark.parametrize(
    ("seed", "methods", "more", "words"),
    [
        (0, LR, {}, ("b: run 0: lr is in ", "a too; give one of them")),
        (0, MMOE, {"oracle": 0.8}, ("b: run 0: oracle does not fit oracle of ", "two worlds")),
        (0, ANOTHER, {}, ("b: run 0: mmoe does not fit lr of ", "two worlds")),
        (1, MMOE, {}, ("run 1: has no method lr; add its results, or give --methods without",)),
        (1, LR | MMOE, {}, ("run 0: has no method mmoe",)),
        (1, LR, {"oracle": None}, ("run 1: has no method oracle",)),
        (1, {"lr": method("lr", 0.6, width=8)}, {}, ("lr: width is 16 in run 0 and 8 in run 1",)),
        (1, {"lr": method("lr", 0.6, n=8)}, {}, ("lr: width is 16 in run 0 and no value in",)),
        (2, LR, {}, ("runs 0, 2: their seeds do not follow",)),
        (1, LR, {"command": RUN + " --split paper"}, ("b: made by", "only --methods, --runs")),
        (1, LR, {"command": None}, ("b: its results do not say which command",)),
        (1, LR, {"preset": "official"}, ("b: preset is official, but paper in ",)),
        (1, LR, {"independent_runs": False}, ("b: independent_runs is False, but True in",)),
        (1, LR, {"tuning": {"methods": {}}}, ("b: has a tuning of its own",)),
    ],
)
def test_what_cannot_be_joined(tmp_path, capsys, seed, methods, more, words):
    first = made(tmp_path / "a", 0, LR)
    second = made(tmp_path / "b", seed, methods, **more)
    refuses(capsys, COMMAND, first, second, "--out", tmp_path / "out", words=words)
    assert "out" not in contents(tmp_path)


def test_trainings_that_ended_by_different_rules_are_not_joined(tmp_path, capsys):
    def trained(name, patience, told="steps"):
        settings = {"offline_patience": patience, "offline_epochs": 30}
        return {name: {**method(name, 0.6, **settings), "offline": {told: 9}}}

    early = made(tmp_path / "a", 0, trained("metaheac", 4))
    late = made(tmp_path / "b", 0, trained("mlp-pretraining", 8))
    words = ("offline_patience is 8 of mlp-pretraining and 4 of metaheac",)
    refuses(capsys, COMMAND, early, late, "--out", tmp_path / "out", words=words)
    late = made(tmp_path / "d", 0, trained("ensemble", 8, "best_step"))
    words = ("offline_patience is 8 of ensemble and 4 of metaheac",)
    refuses(capsys, COMMAND, early, late, "--out", tmp_path / "out", words=words)
    untrained = made(tmp_path / "c", 0, {"lr": method("lr", 0.6, offline_patience=8)})
    succeeds(COMMAND, early, untrained, "--out", tmp_path / "out")


def test_arguments_that_make_no_sense(tmp_path, capsys):
    first, second = (made(tmp_path / "in" / str(n), n, LR) for n in (0, 1))
    out = ("--out", tmp_path / "out")
    refuses(capsys, COMMAND, first, *out, words=("at least two folders, got 1",))
    refuses(capsys, COMMAND, first, tmp_path / "none", *out, words=("none: no results.json",))
    refuses(capsys, COMMAND, first, second, first / ".", *out, words=("in/0: given twice",))
    for place in (first, first.parent):
        words = ("--out: ", f"would replace {first}")
        refuses(capsys, COMMAND, first, second, "--out", place, words=words)
    for name in ("mmoe", "oracle"):
        words = (f"run 0: has no method {name}",)
        refuses(capsys, COMMAND, first, second, *out, "--methods", "lr", name, words=words)
