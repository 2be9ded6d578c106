"""The Tencent comparison as a user runs it, on tiny files: what it leaves, and how it resumes."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import commands
import jax
import numpy as np
import pytest
from commands import (
    contents,
    interrupt_after,
    interrupted,
    refuses,
    succeeds,
    tiny_settings,
    write_few_fields,
)
from judged_runs import FirstTwo
from tencent_world import (
    AIDS,
    CAMPAIGNS,
    SEEN,
    SMALL_SCHEMA,
    TEST,
    TRAIN,
    TRUTH,
    UNJUDGED,
    world,
    write,
)
from writers import release

from experiments import tencent
from experiments.comparison import report, run, runs, tuning
from experiments.comparison.curves import STEPS
from experiments.comparison.provenance import provenance
from experiments.comparison.runs import OUTPUTS
from metaheac_jax.cli.prepare import read_schema
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.methods import METHODS, method_named
from metaheac_jax.methods.stages import Trained
from metaheac_jax.schema import TENCENT
from metaheac_jax.settings import SETTINGS

pytestmark = pytest.mark.slow

COMMAND = commands.module(tencent)
#: One of every network; nothing, plain training and Algorithm 1 offline.
NAMES = ("lr", "mlp-pretraining", "metaheac")
FILES = world()
SEEDS = [n for n, line in enumerate(FILES[TRAIN].splitlines(), 1) if line.startswith(f"{AIDS[3]},")]


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_settings():
        yield


class Finished:
    """A run that nothing interrupted, and where its files are."""

    def __init__(self, directory: Path) -> None:
        self.source, self.out = write(directory / "data"), directory / "out"
        (self.source / "SIMULATED").write_text("simulated toy\n")
        for name, lines in (("train", SEEN * CAMPAIGNS), ("test1_truth", None)):
            count = lines or world()[TRUTH].count("\n")
            np.save(self.source / f"{name}_probability.npy", np.linspace(0, 1, count, dtype="f4"))
        self.cache = directory / "cache"
        self.schema = write_few_fields(directory / "schema.json", TENCENT.to_json())
        self.files = ("--data-dir", self.source, "--cache-dir", self.cache)
        self.files += ("--schema", self.schema)
        self.options = (*self.files, "--out", self.out, "--methods", *NAMES)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Finished(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklearn.manifold.TSNE", FirstTwo)
        succeeds(COMMAND, *run.options)
    return run


def without_seconds(result: dict) -> dict:
    result = {key: value for key, value in result.items() if key != "seconds"}
    if "offline" in result:
        result["offline"] = {k: v for k, v in result["offline"].items() if k != "step_ms"}
    return result


# A run from end to end -------------------------------------------------------------------------


def test_a_run_leaves_all_that_it_promises(finished):
    names = list(NAMES)
    without = {"tuning.json", "training.png"}
    assert contents(finished.out) - without == {*OUTPUTS, "seed-0"} - without
    own = finished.out / "seed-0"
    assert contents(own) == {"config.json", "log.jsonl", "methods", "checkpoints"}
    assert contents(own / "methods") == {f"{name}.json" for name in names}
    for name in ("auc.png", "auc_by_seeds.png", "fine_tuning.png", "space.png", "gate.png"):
        assert (finished.out / name).read_bytes().startswith(b"\x89PNG")
    learned = {name for name in names if method_named(name).takes_steps}
    assert contents(own / "checkpoints") == learned | {f"{name}.json" for name in names}
    log = [json.loads(line) for line in (own / "log.jsonl").read_text().splitlines()]
    assert {line["name"] for line in log} == {method_named(name).label for name in learned}

    results = json.loads((finished.out / "results.json").read_text())
    assert results["about"]["data"] == "simulated toy"
    assert results["about"]["stage1"] == SEEN * CAMPAIGNS
    assert results["about"]["train_campaigns"] == 7
    assert (results["about"]["preset"], results["seeds"]) == ("paper", [0])
    assert results["independent_runs"] is False  # runs divide the campaigns of these files
    command = results["about"]["command"]
    methods = " ".join(NAMES)
    assert command.startswith(f"python -m experiments.tencent --methods {methods} --data-dir ")
    assert str(finished.out) not in command
    (run,) = report.load(finished.out).runs
    assert list(run) == [*names, "oracle"] == list(results["summary"])
    for name in names:
        judged = [campaign["campaign"] for campaign in run[name]["campaigns"]]
        assert judged == [aid for aid in TEST if aid not in UNJUDGED]
        assert ("curve" in run[name]) == (name == "metaheac")  # of these, the paper draws it alone
    curve = run["metaheac"]["curve"]
    assert curve["campaign"] in judged
    assert curve["steps"] == list(STEPS)
    assert np.isfinite(curve["loss"] + curve["auc"]).all()
    assert curve["loss"][-1] < 0.8 * curve["loss"][0]  # a thousand steps fit eighty examples
    space = run["metaheac"]["space"]
    assert space["campaign"] == AIDS  # those of training, too
    assert set(space["category"]) == {str(c % 4) for c in range(CAMPAIGNS)}
    assert np.shape(space["representation"]) == (CAMPAIGNS, 64)
    np.testing.assert_allclose(np.sum(space["gate"], axis=1), 1, atol=1e-3)


def test_a_method_has_learned(finished):
    # A gender's rate is .6 or .1, so about .8 can be reached; 80 examples do not tell so much.
    (run,) = report.load(finished.out).runs
    assert np.mean([campaign["auc"] for campaign in run["lr"]["campaigns"]]) > 0.6


def test_the_report_names_who_cannot_be_judged_and_what_is_the_papers(finished):
    text = (finished.out / "report.md").read_text()
    methods = text.partition("## Methods")[2].partition("\n## ")[0]
    assert text.count("simulated toy: 7 training and 5 test campaigns, 960 + ") == 1
    for aid, why in UNJUDGED.items():
        assert text.count(f"- campaign {aid} could not be judged: {why}\n") == 1
    for name in NAMES:
        assert methods.count(f"\n| {method_named(name).label} |") == 1
    assert "| MetaHeac [paper] | 0.7239 | 0.2489 | 0.2554 | - | 0.7142 |" in text
    assert "[paper]: the paper's own figures, on the paper's data." in text
    assert "(auc_by_seeds.png)" in text
    assert "(fine_tuning.png)" in text
    assert "(space.png)" in text
    origin = f"jax {jax.__version__}; commit {provenance()['commit'] or 'unknown'}; "
    assert text.count(origin) == text.count("\n## ")


def test_resuming_a_finished_run_trains_nothing_and_prints_the_table(finished, capsys, monkeypatch):
    monkeypatch.setattr("sklearn.manifold.TSNE", FirstTwo)
    monkeypatch.setattr("experiments.comparison.run.run_method", None)
    before = json.loads((finished.out / "results.json").read_text())
    succeeds(COMMAND, *finished.options, "--resume")
    printed = capsys.readouterr().out
    for name in NAMES:
        label = re.escape(method_named(name).label)
        assert re.search(rf"^ *{label} +[\d.-]+ ", printed, re.MULTILINE)
    for aid, why in UNJUDGED.items():
        assert f"campaign {aid} could not be judged: {why}" in printed
    assert "MetaHeac [paper]" in printed
    assert json.loads((finished.out / "results.json").read_text()) == before


def test_a_killed_run_resumes_to_the_same_results(finished, tmp_path, capsys, monkeypatch):
    options = (*finished.files, "--out", tmp_path / "out", "--methods", "lr", "mlp-pretraining")
    with monkeypatch.context() as patch:
        saved = interrupt_after(patch, 2)
        interrupted(COMMAND, *options)
    assert capsys.readouterr().err.startswith("interrupted; run the same command again to continue")
    assert contents(tmp_path / "out") == {"seed-0"}
    own = tmp_path / "out" / "seed-0"
    assert contents(own / "methods") == {"lr.json"}
    done = (own / "methods" / "lr.json").stat().st_mtime_ns

    succeeds(COMMAND, *options, "--resume")
    assert (own / "methods" / "lr.json").stat().st_mtime_ns == done
    log = (own / "log.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in log]
    assert steps[:2] == saved == [4, 8]
    assert steps[2] > 8
    assert steps == sorted(set(steps))  # none was done twice
    (whole,) = report.load(finished.out).runs
    (resumed,) = report.load(tmp_path / "out").runs
    assert list(resumed) == ["lr", "mlp-pretraining", "oracle"]
    for name, result in resumed.items():
        assert without_seconds(result) == without_seconds(whole[name])


@pytest.mark.parametrize(
    ("more", "what"),
    [
        (("--split", "official"), "split"),
        (("--preset", "official"), "settings"),
        (("--schema", "schema.json"), "schema"),
    ],
)
def test_resuming_with_other_options_is_refused(
    finished, tmp_path, capsys, monkeypatch, more, what
):
    monkeypatch.chdir(tmp_path)
    Path("schema.json").write_text(json.dumps(SMALL_SCHEMA))
    before = (finished.out / "seed-0" / "config.json").read_bytes()
    options = [*finished.options, "--resume"]
    if more[0] in options:
        options[options.index(more[0]) + 1] = more[1]
    else:
        options += more
    refuses(
        capsys,
        COMMAND,
        *options,
        words=("config.json: started with another ", what, "afresh"),
    )
    assert (finished.out / "seed-0" / "config.json").read_bytes() == before
    assert (finished.out / "report.md").exists()


def test_results_reached_with_other_settings_are_refused(finished, capsys, monkeypatch):
    build = METHODS["lr"]
    other = lambda settings: build(settings).with_settings(online_learning_rate=0.5)  # noqa: E731
    monkeypatch.setitem(METHODS, "lr", other)
    words = ("lr.json: reached with other settings", "afresh")
    refuses(capsys, COMMAND, *finished.options, "--resume", words=words)


def test_a_second_command_on_a_run_is_refused(finished, capsys, writers):
    before = {path: path.stat().st_mtime_ns for path in finished.out.rglob("*")}
    with writers.of(finished.out) as process:
        words = (f"{finished.out}: process {process} on ", " is writing it; wait for it")
        refuses(capsys, COMMAND, *finished.options, words=words, code=75)
    assert {path: path.stat().st_mtime_ns for path in finished.out.rglob("*")} == before


def test_prepared_data_that_another_command_makes_are_waited_for(finished, tmp_path, writers):
    """Both commands want them; the second prepares nothing when the first has finished."""
    options = tencent.Options(data_dir=finished.source, cache_dir=tmp_path, schema=finished.schema)
    target = tencent.prepared_folder(finished.source, read_schema(finished.schema), options)
    told = []
    with writers.of(target) as process:

        def tell(what, done, total):
            if what.startswith(f"wait for process {process} on "):
                shutil.copytree(next(finished.cache.iterdir()), target)
                release(process)
            told.append(what)

        tencent.load(options, 0, tell)
    assert {what.partition(" ")[0] for what in told} == {"wait", "checksums"}


def test_resuming_with_other_files_is_refused(finished, tmp_path, capsys):
    options = ("--data-dir", write(tmp_path / "data"), "--cache-dir", tmp_path / "cache")
    words = ("started with another data", "data_dir")
    refuses(capsys, COMMAND, *options, "--out", finished.out, "--resume", words=words)


def test_resuming_what_is_not_there_is_refused(finished, tmp_path, capsys):
    options = (*finished.files, "--out", tmp_path / "out", "--resume")
    refuses(capsys, COMMAND, *options, words=(tmp_path / "out" / "seed-0", "no run to resume"))
    assert contents(tmp_path) == set()
    options = (*finished.options, "--resume", "--seed", 1)
    refuses(capsys, COMMAND, *options, words=(finished.out / "seed-1", "no run to resume"))


def test_no_campaign_that_can_be_judged(tmp_path, capsys):
    text = "".join(
        line + "\n" for line in world()[TRUTH].splitlines() if int(line.split(",")[0]) not in TEST
    )
    source, out = write(tmp_path / "[data]", **{TRUTH: text}), tmp_path / "out [1]"
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", out)
    succeeds(COMMAND, *options, "--methods", "lr")
    printed, text = capsys.readouterr().out, (out / "report.md").read_text()
    for aid in TEST:
        line = f"campaign {aid} could not be judged: 0 candidates, fewer than 20"
        assert line in printed
        assert line in text
    assert f"are in {out}\n" in printed  # neither cut, nor taken for markup
    assert {"auc_by_seeds.png", "results.json"} <= contents(out)


def test_runs_follow_each_other_and_resume(finished, tmp_path, capsys, monkeypatch):
    options = (*finished.files, "--out", tmp_path / "out", "--methods", "lr")
    succeeds(COMMAND, *options, "--seed", 3)
    first = (tmp_path / "out" / "seed-3" / "methods" / "lr.json").stat().st_mtime_ns
    # As if it had been interrupted after the first run.
    succeeds(COMMAND, *options, "--seed", 3, "--runs", 2, "--resume")
    assert (tmp_path / "out" / "seed-3" / "methods" / "lr.json").stat().st_mtime_ns == first
    stored = report.load(tmp_path / "out")
    assert stored.seeds == [3, 4]
    tested = [{c["campaign"] for c in run["oracle"]["campaigns"]} for run in stored.runs]
    assert tested[0] != tested[1]  # each has its own split
    text = (tmp_path / "out" / "report.md").read_text()
    assert re.search(r"\| LR \| \d\.\d{4} ±\d\.\d{4} \|", text)
    assert "preset paper, 2 runs" in text
    # Bad input leaves it alone; a new run replaces all of it, and nothing else.
    broken = ("--data-dir", tmp_path / "nowhere", *options[2:])
    refuses(capsys, COMMAND, *broken, words=("nowhere: no such folder",))
    assert report.load(tmp_path / "out") == stored
    (tmp_path / "out" / "seed-4" / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "run_methods", interrupt)
        interrupted(COMMAND, *options, "--seed", 3)
    assert contents(tmp_path / "out") == {"seed-3", "seed-4"}
    assert contents(tmp_path / "out" / "seed-3") == {"config.json", "methods"}
    assert contents(tmp_path / "out" / "seed-4") == {"notes.txt"}


def interrupt(*_, **__):
    raise KeyboardInterrupt


class Ranker:
    """A method that ranks by the labels the better, the nearer its rate is to .004."""

    def __init__(self) -> None:
        self.trained = []

    def train(self, run):
        if len(self.trained) == 3:
            self.trained.append(None)
            raise KeyboardInterrupt
        self.trained.append(run.settings)
        distance = abs(run.settings.outer_learning_rate - 0.004)
        return Trained({"quality": 0.5 / (1 + 100 * distance)})

    def adapt(self, run, state, campaigns):
        data = run.dataset
        user_of = {row.tobytes(): user for user, row in enumerate(data.user_rows)}

        def scorer(campaign):
            index = int(np.searchsorted(data.campaign_ids, campaign.id))
            label = np.zeros(data.num_users)
            for stage in (data.stage1, data.stage2):
                label[stage.user[stage.of(index)]] = stage.label[stage.of(index)]

            def score(users):
                who = [user_of[row.tobytes()] for row in np.asarray(users)]
                return state["quality"] * label[who] + np.random.default_rng(0).random(len(who))

            return score

        return list(map(scorer, campaigns))


def test_tuning_comes_first_and_serves_all_runs(finished, tmp_path, capsys, monkeypatch):
    fake, out = Ranker(), tmp_path / "out"
    build = METHODS["metaheac"]
    ranker = lambda settings: dataclasses.replace(  # noqa: E731
        build(settings), train=fake.train, adapt=fake.adapt, restore=None
    )
    monkeypatch.setitem(METHODS, "metaheac", ranker)
    monkeypatch.setattr(run, "Weights", lambda **_: None)
    monkeypatch.setattr(run, "campaign_space", lambda *_: None)
    options = (*finished.files, "--out", out, "--methods", "metaheac", "--runs", 2, "--tune", 20)
    refuses(capsys, COMMAND, *options, "--resume", words=(out / "tuning", "no run to resume"))
    interrupted(COMMAND, *options)
    assert contents(out) == {"tuning"}
    succeeds(COMMAND, *options, "--resume")
    tried = [p for p in fake.trained if p is not None]
    assert tried[0] not in tried[2:]  # the first trial was not repeated
    stored = report.load(out)
    own = method_named("metaheac", SETTINGS["paper"])
    start = {field: getattr(own.settings, field) for field in own.tuned}
    # Only the outer rate makes a difference, and the first of equal trials stays.
    chosen = start | {"outer_learning_rate": 0.003}
    assert stored.tuning["methods"]["metaheac"]["chosen"] == chosen
    for seed, used in zip((0, 1), tried[-2:], strict=True):
        assert (used.outer_learning_rate, used.num_experts, used.num_critics) == (0.003, 2, 2)
        folder = out / f"seed-{seed}"
        result = json.loads((folder / "methods" / "metaheac.json").read_text())
        assert result["settings"] == dataclasses.asdict(used)
        assert ("space" in result) == (seed == 0)  # figures show the first run alone
    text = (out / "report.md").read_text()
    row = r"\n\| MetaHeac \| \d+ \| 0 \| 0\.\d{4} \| 0\.\d{4} \| "
    assert re.search(row + r".*outer_learning_rate 0\.003, .*num_critics 2 \|\n", text)
    assert "settings tuned on: `python -m experiments.tencent" in text


def test_rates_that_were_chosen_before_are_used(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "TUNED", tmp_path)
    kept = {"methods": {"lr": {"chosen": {"online_learning_rate": 0.02, "penalty": 5.0}}}}
    (tmp_path / "tencent.json").write_text(json.dumps(kept))
    used = []
    monkeypatch.setattr(runs, "run_methods", lambda data, methods, **_: used.append(methods))
    monkeypatch.setattr(report, "write", lambda *_: None)
    load, source = tencent.load, finished.source
    succeeds(COMMAND, *finished.files, "--out", tmp_path / "files", "--methods", "lr")
    # The same files in the place of the simulated world, whose rates these are.
    swap = lambda options, *more: load(dataclasses.replace(options, data_dir=source), *more)  # noqa: E731
    monkeypatch.setattr(tencent, "load", swap)
    for preset in ("paper", "official"):
        options = ("--cache-dir", tmp_path / "cache", "--methods", "lr", "--preset", preset)
        succeeds(COMMAND, *options, "--out", tmp_path / preset)
    rates = [lr.settings.online_learning_rate for [lr] in used]
    own = method_named("lr").settings.online_learning_rate
    assert rates == [own, 0.02, own]
    # --set replaces what was chosen, but not what defines a method.
    options = ("--cache-dir", tmp_path / "cache", "--methods", "lr", "without-hc", "--set")
    options = (*options, "width=7", "penalty=2", "num_critics=4")
    succeeds(COMMAND, *options, "--out", tmp_path / "set")
    lr, without_hc = (method.settings for method in used.pop())
    for settings in (lr, without_hc):
        assert (settings.width, settings.penalty) == (7, 2)
    assert (lr.num_critics, without_hc.num_critics) == (4, 1)
    # What --tune-only leaves out is as it was chosen before; a search of its own starts afresh.
    for only in ((), ("--tune-only", "table_scale")):
        options = ("--cache-dir", tmp_path / "cache", "--methods", "lr", "--tune", 1, *only)
        succeeds(COMMAND, *options, "--out", tmp_path / "searched")
    rates = [lr.settings.online_learning_rate for [lr] in used[3:]]
    assert rates == [own, 0.02]


SINGLE = "\n".join(
    re.sub(",-?1$", ",1", line) if line.startswith(f"{AIDS[3]},") else line
    for line in FILES[TRAIN].split("\n")
)
THREE = "\n".join(line for n, line in enumerate(FILES[TRAIN].split("\n"), 1) if n not in SEEDS[3:])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SINGLE, f"campaign {AIDS[3]}: stage 1 has {SEEN} seeds among {SEEN} examples"),
        (THREE, f"campaign {AIDS[3]}: stage 1 has "),
    ],
)
def test_bad_campaigns_leave_an_older_run_alone(finished, tmp_path, capsys, text, words):
    source = write(tmp_path / "data", **{TRAIN: text})
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", finished.out)
    before = {path: path.stat().st_mtime_ns for path in finished.out.rglob("*")}
    refuses(capsys, COMMAND, *options, words=(words, "add examples, or leave the campaign out"))
    assert {path: path.stat().st_mtime_ns for path in finished.out.rglob("*")} == before
    (prepared,) = (tmp_path / "cache").iterdir()  # the files are well-formed: whole, and kept
    assert open_dataset(prepared).num_campaigns == CAMPAIGNS
