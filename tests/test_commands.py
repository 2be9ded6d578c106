"""The commands as a user runs them, on tiny files: what they leave, and what they say of bad input.

Most run in this process, since starting JAX costs more than the work.
"""

import dataclasses
import json
import os
import pickle
import platform
import re
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
import toy
import tyro
from jax.experimental.compilation_cache import compilation_cache

import experiments
from experiments import console, job, methods, movielens, report, runs, tencent, tuning
from experiments.methods import fine_tuned
from experiments.runs import OUTPUTS
from metaheac_jax.checkpoint import Checkpoints
from metaheac_jax.data import authors
from metaheac_jax.data.dataset import MANIFEST, new_directory, open_dataset, write_dataset
from metaheac_jax.data.splits import paper_split
from metaheac_jax.errors import InputError
from metaheac_jax.presets import PRESETS
from metaheac_jax.schema import TENCENT

CAMPAIGNS, USERS, SEEN, POOL = 12, 300, 80, 40
AIDS = [100 + 7 * c for c in range(CAMPAIGNS)]
#: The test campaigns of seed 0, which depend on nothing but their number.
TEST = [AIDS[c] for c in paper_split(toy.dataset(campaigns=CAMPAIGNS), 0).test]
#: Those that cannot be judged in the world below, and why.
UNJUDGED = {
    TEST[0]: f"0 positives among {POOL} candidates",
    TEST[1]: "7 candidates, fewer than 20",
    TEST[2]: "0 candidates, fewer than 20",
}
#: One of every network; nothing, plain training and Algorithm 1 offline.
METHODS = {name: methods.METHODS[name] for name in ("lr", "mlp-pretraining", "metaheac")}
USER_FILE, ADS, TRAIN, TRUTH = "userFeature.data", "adFeature.csv", "train.csv", "test1_truth.csv"
SMALL_SCHEMA = {
    "user": [{"name": "gender"}, {"name": "os", "slots": 2}],
    "campaign": [{"name": "creativeId"}],
}


def world() -> dict[str, str]:
    """The four files: a campaign is liked by one gender more than by the other."""
    rng = np.random.default_rng(5)
    gender = rng.integers(1, 3, USERS)
    lines = []
    for u in range(USERS):
        fields = [f"uid {1000 + u}", f"gender {gender[u]}", f"os {rng.integers(1, 4)}"]
        for field in TENCENT.user:
            if field.name != "gender":
                values = rng.choice(9, min(field.slots, 3), replace=False)
                fields.append(" ".join([field.name, *map(str, values)]))
        lines.append("|".join(fields))
    ads = ["aid,advertiserId,campaignId,creativeId,creativeSize,adCategoryId,productId,productType"]
    train, truth = ["aid,uid,label"], []
    for c, aid in enumerate(AIDS):
        ads.append(f"{aid},{c % 5},{c},{c},{c % 3},{c % 4},{c % 6},{c % 2}")
        users = rng.permutation(USERS)
        liked = rng.random(USERS) < np.where(gender == 1 + c % 2, 0.6, 0.1)
        train += [f"{aid},{1000 + u},{1 if liked[u] else -1}" for u in users[:SEEN]]
        pool = users[SEEN : SEEN + POOL]
        if aid == TEST[0]:
            liked[pool] = False
        pool = pool[: {TEST[1]: 7, TEST[2]: 0}.get(aid, POOL)]
        truth += [f"{aid},{1000 + u},{1 if liked[u] else -1}" for u in pool]
    files = {USER_FILE: lines, ADS: ads, TRAIN: train, TRUTH: truth}
    return {name: "\n".join(lines) + "\n" for name, lines in files.items()}


def write(source: Path, **changes: str | None) -> Path:
    """The four files in a folder, some of them changed, or left out if None."""
    source.mkdir()
    for name, text in (world() | changes).items():
        if text is not None:
            (source / name).write_text(text)
    return source


def with_line(text: str, number: int, line: str) -> str:
    """Another line in the place of line ``number``, which counts from 1."""
    lines = text.split("\n")
    lines[number - 1] = line
    return "\n".join(lines)


def command(module, *arguments: object) -> None:
    """``python -m experiments.MODULE ARGUMENTS`` without the Python."""
    words = [str(argument) for argument in arguments]
    console.run(lambda: module.main(tyro.cli(module.Options, args=words)))


def settings(argv0: str, **environment: str) -> list[str]:
    """GLIBC_TUNABLES and XLA_FLAGS of a process that has argv[0] and imports the commands.

    `python -m` has "-m" while it looks for the module. A third entry says that it started again.
    """
    show = "import os; print(*map(os.environ.get, ('GLIBC_TUNABLES', 'XLA_FLAGS')), sep='\\n')"
    again = f"[sys.executable, '-c', {show + '; print(1)'!r}]"
    start = f"import sys; sys.argv[0] = {argv0!r}; sys.orig_argv = {again}\nimport experiments\n"
    others = {n: v for n, v in os.environ.items() if n not in ("GLIBC_TUNABLES", "XLA_FLAGS")}
    words = [sys.executable, "-c", start + show]
    done = subprocess.run(words, env=others | environment, capture_output=True, check=True)
    return done.stdout.decode().splitlines()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc's allocator")
def test_a_command_starts_again_with_huge_pages():
    """Once, and never in a program that imports a command."""
    assert settings("-m")[::2] == ["glibc.malloc.hugetlb=1", "1"]
    assert settings("-m", GLIBC_TUNABLES="")[::2] == [""]
    assert settings("pytest")[::2] == ["None"]


@pytest.mark.skipif(experiments._accelerator(), reason="jax has a plugin for an accelerator here")
def test_a_command_compiles_at_the_first_level(tmp_path):
    """Unless it is told another, and not where jax would find a plugin for an accelerator."""
    first = "--xla_backend_optimization_level=1"
    assert settings("-m")[1] == first
    assert settings("-m", XLA_FLAGS="--xla_dump_to=/x")[1] == f"--xla_dump_to=/x {first}"
    assert settings("-m", XLA_FLAGS=first[:-1] + "3")[1] == first[:-1] + "3"
    assert settings("pytest")[1] == "None"
    plugin = tmp_path / "gpu-1.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text("Name: gpu\nVersion: 1\n")
    (plugin / "entry_points.txt").write_text("[jax_plugins]\ngpu = gpu\n")
    assert settings("-m", PYTHONPATH=str(tmp_path))[1] == "None"


def refuses(capsys, module, *arguments: object, words: tuple[str, ...]) -> None:
    """The command ends with exit code 2 and one line that has all the words."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        command(module, *arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for word in words:
        assert str(word) in error


def contents(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


@pytest.fixture(scope="module", autouse=True)
def tiny_presets(tmp_path_factory):
    """Settings with which a method takes seconds, nearly all of it compilation, and that once."""
    sizes = {"width": 4, "experts": 2, "critics": 2, "rows": 32, "campaigns_per_step": 2}
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        for name, preset in list(PRESETS.items()):
            patch.setitem(PRESETS, name, dataclasses.replace(preset, epochs=1, **sizes))
        for values in (settings, before):
            for name, value in values.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
            if values is settings:
                yield


def test_compiled_programs_are_kept_unless_the_user_says_where(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = "jax_compilation_cache_dir"
    own = jax.config.values[name]
    console.keep_compiled()
    assert jax.config.values[name] == own
    least = jax.config.values["jax_persistent_cache_min_compile_time_secs"]
    try:
        jax.config.update(name, None)
        console.keep_compiled()
        assert jax.config.values[name] == str(tmp_path / "metaheac_jax" / "compiled")
    finally:
        jax.config.update(name, own)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


class Finished:
    """A run that nothing interrupted, and where its files are."""

    def __init__(self, directory: Path) -> None:
        self.source, self.out = write(directory / "data"), directory / "out"
        (self.source / "SIMULATED").write_text("simulated toy\n")
        for name, lines in (("train", SEEN * CAMPAIGNS), ("test1_truth", None)):
            count = lines or world()[TRUTH].count("\n")
            np.save(self.source / f"{name}_probability.npy", np.linspace(0, 1, count, dtype="f4"))
        self.cache = directory / "cache"
        self.files = ("--data-dir", self.source, "--cache-dir", self.cache)
        self.options = (*self.files, "--out", self.out, "--methods", *METHODS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run = Finished(tmp_path_factory.mktemp("finished"))
    command(tencent, *run.options)
    return run


def without_seconds(result: dict) -> dict:
    return {key: value for key, value in result.items() if key != "seconds"}


# A run from end to end -------------------------------------------------------------------------


def test_a_run_leaves_all_that_it_promises(finished):
    names = list(METHODS)
    assert contents(finished.out) == {*OUTPUTS, "seed-0"} - {"tuning.json"}
    own = finished.out / "seed-0"
    assert contents(own) == {"config.json", "log.jsonl", "methods", "checkpoints"}
    assert contents(own / "methods") == {f"{name}.json" for name in names}
    for name in ("auc.png", "auc_by_seeds.png", "fine_tuning.png", "space.png", "gate.png"):
        assert (finished.out / name).read_bytes().startswith(b"\x89PNG")
    learned = {name for name in names if METHODS[name].steps}
    assert contents(own / "checkpoints") == learned | {f"{name}.json" for name in names}
    log = [json.loads(line) for line in (own / "log.jsonl").read_text().splitlines()]
    assert {line["name"] for line in log} == {METHODS[name].label for name in learned}

    results = json.loads((finished.out / "results.json").read_text())
    assert results["about"]["data"] == "simulated toy"
    assert results["about"]["stage1"] == SEEN * CAMPAIGNS
    assert results["about"]["train_campaigns"] == 7
    assert (results["about"]["preset"], results["seeds"]) == ("paper", [0])
    (run,) = report.load(finished.out).runs
    assert list(run) == [*names, "oracle"] == list(results["summary"])
    for name in names:
        judged = [campaign["campaign"] for campaign in run[name]["campaigns"]]
        assert judged == [aid for aid in TEST if aid not in UNJUDGED]
        assert ("curve" in run[name]) == (name == "metaheac")  # of these, the paper draws it alone
    curve = run["metaheac"]["curve"]
    assert curve["campaign"] in judged
    assert curve["steps"] == list(job.CURVE_STEPS)
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
    for method in METHODS.values():
        assert methods.count(f"\n| {method.label} |") == 1
    assert "| MetaHeac [paper] | 0.7239 | 0.2489 | 0.2554 | - | 0.7142 |" in text
    assert "[paper]: the paper's own figures, on the paper's data, not this." in text
    assert "(auc_by_seeds.png)" in text
    assert "(fine_tuning.png)" in text
    assert "(space.png)" in text


def test_resuming_a_finished_run_trains_nothing_and_prints_the_table(finished, capsys, monkeypatch):
    monkeypatch.setattr("experiments.job.run_method", None)
    before = json.loads((finished.out / "results.json").read_text())
    command(tencent, *finished.options, "--resume")
    printed = capsys.readouterr().out
    for method in METHODS.values():
        assert re.search(rf"^ *{re.escape(method.label)} +[\d.-]+ ", printed, re.MULTILINE)
    for aid, why in UNJUDGED.items():
        assert f"campaign {aid} could not be judged: {why}" in printed
    assert "MetaHeac [paper]" in printed
    assert json.loads((finished.out / "results.json").read_text()) == before


def test_a_killed_run_resumes_to_the_same_results(finished, tmp_path, capsys, monkeypatch):
    options = (*finished.files, "--out", tmp_path / "out", "--methods", "lr", "mlp-pretraining")
    save, saved = Checkpoints.save, []

    def save_twice(self, step, state):
        save(self, step, state)
        saved.append(step)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fine_tuned, "train", partial(fine_tuned.train, save_every=4))
        patch.setattr(Checkpoints, "save", save_twice)
        with pytest.raises(SystemExit) as caught:
            command(tencent, *options)
    assert caught.value.code == 130
    assert capsys.readouterr().err == "interrupted; go on with --resume\n"
    assert contents(tmp_path / "out") == {"seed-0"}
    own = tmp_path / "out" / "seed-0"
    assert contents(own / "methods") == {"lr.json"}
    done = (own / "methods" / "lr.json").stat().st_mtime_ns

    command(tencent, *options, "--resume")
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
        (("--preset", "official"), "preset"),
        (("--schema", "schema.json"), "schema"),
    ],
)
def test_resuming_with_other_options_is_refused(
    finished, tmp_path, capsys, monkeypatch, more, what
):
    monkeypatch.chdir(tmp_path)
    Path("schema.json").write_text(json.dumps(SMALL_SCHEMA))
    before = (finished.out / "seed-0" / "config.json").read_bytes()
    options = (*finished.options, "--resume", *more)
    refuses(capsys, tencent, *options, words=("config.json: the run had another ", what, "afresh"))
    assert (finished.out / "seed-0" / "config.json").read_bytes() == before
    assert (finished.out / "report.md").exists()


def test_results_reached_with_other_settings_are_refused(finished, capsys, monkeypatch):
    method = dataclasses.replace(METHODS["lr"], settings={"online_learning_rate": 0.5})
    monkeypatch.setitem(methods.METHODS, "lr", method)
    words = ("lr.json: reached with other settings", "afresh")
    refuses(capsys, tencent, *finished.options, "--resume", words=words)


def test_resuming_with_other_files_is_refused(finished, tmp_path, capsys):
    options = ("--data-dir", write(tmp_path / "data"), "--cache-dir", tmp_path / "cache")
    words = ("the run had another data", "data_dir")
    refuses(capsys, tencent, *options, "--out", finished.out, "--resume", words=words)


def test_resuming_what_is_not_there_is_refused(finished, tmp_path, capsys):
    options = (*finished.files, "--out", tmp_path / "out", "--resume")
    refuses(capsys, tencent, *options, words=(tmp_path / "out" / "seed-0", "no run to resume"))
    assert contents(tmp_path) == set()
    options = (*finished.options, "--resume", "--seed", 1)
    refuses(capsys, tencent, *options, words=(finished.out / "seed-1", "no run to resume"))


def test_no_campaign_that_can_be_judged(tmp_path, capsys):
    text = "".join(
        line + "\n" for line in world()[TRUTH].splitlines() if int(line.split(",")[0]) not in TEST
    )
    source, out = write(tmp_path / "[data]", **{TRUTH: text}), tmp_path / "out [1]"
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", out)
    command(tencent, *options, "--methods", "lr")
    printed, text = capsys.readouterr().out, (out / "report.md").read_text()
    for aid in TEST:
        line = f"campaign {aid} could not be judged: 0 candidates, fewer than 20"
        assert line in printed
        assert line in text
    assert f"are in {out}\n" in printed  # neither cut, nor taken for markup
    assert {"auc_by_seeds.png", "results.json"} <= contents(out)


def test_runs_follow_each_other_and_resume(finished, tmp_path, capsys, monkeypatch):
    options = (*finished.files, "--out", tmp_path / "out", "--methods", "lr")
    command(tencent, *options, "--seed", 3)
    first = (tmp_path / "out" / "seed-3" / "methods" / "lr.json").stat().st_mtime_ns
    # As if it had been interrupted after the first run.
    command(tencent, *options, "--seed", 3, "--runs", 2, "--resume")
    assert (tmp_path / "out" / "seed-3" / "methods" / "lr.json").stat().st_mtime_ns == first
    stored = report.load(tmp_path / "out")
    assert stored.seeds == [3, 4]
    tested = [{c["campaign"] for c in run["oracle"]["campaigns"]} for run in stored.runs]
    assert tested[0] != tested[1]  # each has its own split
    text = (tmp_path / "out" / "report.md").read_text()
    assert re.search(r"\| LR \| \d\.\d{4} ±\d\.\d{4} \|", text)
    assert "preset paper, 2 runs" in text
    # Bad input leaves it alone; a new run replaces all of it, and nothing else.
    broken = ("--data-dir", tmp_path / "nowhere")
    refuses(capsys, tencent, *options, *broken, words=("nowhere: no such folder",))
    assert report.load(tmp_path / "out") == stored
    (tmp_path / "out" / "seed-4" / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "run_methods", interrupt)
        with pytest.raises(SystemExit):
            command(tencent, *options, "--seed", 3)
    assert contents(tmp_path / "out") == {"seed-3", "seed-4"}
    assert contents(tmp_path / "out" / "seed-3") == {"config.json", "methods"}
    assert contents(tmp_path / "out" / "seed-4") == {"notes.txt"}


def interrupt(*_, **__):
    raise KeyboardInterrupt


class Ranker:
    """A method that ranks by the labels the better, the nearer its rate is to .005."""

    def __init__(self) -> None:
        self.trained = []

    def offline(self, job):
        if len(self.trained) == 3:
            self.trained.append(None)
            raise KeyboardInterrupt
        self.trained.append(job.preset)
        return 0.5 / (1 + 100 * abs(job.preset.outer_learning_rate - 0.005))

    def online(self, job, general, campaigns, watch=None):
        def scorer(c):
            label = job.dataset.stage2.label[job.dataset.stage2.of(c)]
            noise = np.random.default_rng(0).random(len(label))
            return lambda users: general * label + noise

        return [scorer(c) for c in campaigns]


def test_tuning_comes_first_and_serves_all_runs(finished, tmp_path, capsys, monkeypatch):
    fake, out = Ranker(), tmp_path / "out"
    method = methods.METHODS["metaheac"]
    method = dataclasses.replace(method, offline=fake.offline, online=fake.online)
    monkeypatch.setitem(methods.METHODS, "metaheac", method)
    monkeypatch.setattr(job, "campaign_space", lambda *_: None)
    options = (*finished.files, "--out", out, "--methods", "metaheac", "--runs", 2, "--tune", "all")
    refuses(capsys, tencent, *options, "--resume", words=(out / "tuning", "no run to resume"))
    with pytest.raises(SystemExit) as caught:
        command(tencent, *options)
    assert caught.value.code == 130
    assert contents(out) == {"tuning"}
    command(tencent, *options, "--resume")
    tried = [p for p in fake.trained if p is not None]
    assert len(tried) == 5 + 4 + 4 + 4 + 2
    stored = report.load(out)
    chosen = {"outer_learning_rate": 0.005, "online_learning_rate": 0.001}
    assert stored.tuning["methods"]["metaheac"]["chosen"] == chosen
    sizes = stored.tuning["sizes"]["chosen"]
    assert sizes == {"experts": 3, "critics": 3}  # all are alike: the first
    for seed, used in zip((0, 1), tried[-2:], strict=True):
        assert (used.outer_learning_rate, used.experts, used.critics) == (0.005, 3, 3)
        own = out / f"seed-{seed}"
        result = json.loads((own / "methods" / "metaheac.json").read_text())
        assert result["settings"] == dataclasses.asdict(used)
        assert ("space" in result) == (seed == 0)  # figures show the first run alone
        assert json.loads((own / "config.json").read_text())["preset"]["experts"] == 3
    text = (out / "report.md").read_text()
    assert "## Learning rates: AUC on held-out training campaigns of the first run" in text
    assert "| method | field | 0.001 | 0.005 | 0.01 | 0.02 | 0.1 | chosen |" in text
    assert re.search(r"\| MetaHeac \| outer_learning_rate \| .* \| 0\.005 \|\n", text)
    assert re.search(r"\| MetaHeac \| experts \| [\d. |]* \| 3 \|\n", text)


def test_rates_that_were_chosen_before_are_used(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "CHOSEN", tmp_path)
    kept = {"methods": {"lr": {"chosen": {"online_learning_rate": 0.02}}}, "sizes": None}
    (tmp_path / "tencent.json").write_text(json.dumps(kept))
    used = []
    monkeypatch.setattr(runs, "run_methods", lambda data, presets, **_: used.append(presets))
    monkeypatch.setattr(report, "write", lambda *_: None)
    load, source = tencent.load, finished.source
    command(tencent, *finished.files, "--out", tmp_path / "files", "--methods", "lr")
    # The same files in the place of the simulated world, whose rates these are.
    swap = lambda options, *more: load(dataclasses.replace(options, data_dir=source), *more)  # noqa: E731
    monkeypatch.setattr(tencent, "load", swap)
    for preset in ("paper", "official"):
        options = ("--cache-dir", tmp_path / "cache", "--methods", "lr", "--preset", preset)
        command(tencent, *options, "--out", tmp_path / preset)
    rates = [presets["lr"].online_learning_rate for presets in used]
    own = METHODS["lr"].settings["online_learning_rate"]
    assert rates == [own, 0.02, own]


def test_the_wechat_world_has_its_own_split_and_published_figures(tmp_path, monkeypatch):
    written = []

    def write_toy(target, *, users, seed, shape, progress):
        written.append((users, seed, shape.name, target.name))
        write(target)
        (target / "SIMULATED").write_text("simulated toy of WeChat\n")

    monkeypatch.setattr(tencent, "write_world", write_toy)
    (tmp_path / "cache").mkdir()
    options = ("--cache-dir", tmp_path / "cache", "--out", tmp_path / "out", "--methods", "lr")
    command(tencent, *options, "--world", "wechat", "--users", 500, "--seed", 2)
    name = "simulated-wechat-500-users-seed-2"
    assert written == [(500, 2, "WeChat-shaped Tencent", name)]
    stored = report.load(tmp_path / "out")
    assert stored.about["train_campaigns"] == 8  # 58 of 90 are 7.7 of 12
    (prepared,) = (p for p in (tmp_path / "cache").iterdir() if p.name.startswith("prepared"))
    seeds = int(open_dataset(prepared).stage1.positives.sum())
    assert stored.about["threshold"] == round(10_000 * seeds / 286_036) > 0
    assert "| LR [paper] | 0.5654 |" in (tmp_path / "out" / "report.md").read_text()


def test_t_is_the_papers_where_the_world_is_no_smaller():
    data = toy.dataset(users=30, campaigns=90, per_campaign=20, pool=20)
    data = dataclasses.replace(data, stage1=Many(data.stage1))
    split = tencent.wechat_split(data, 0)
    assert (split.threshold, len(split.train), len(split.test)) == (10_000, 58, 32)


class Many:
    """A stage whose campaigns have 4,000 seeds each."""

    def __init__(self, stage):
        self.positives = np.full(len(stage.counts), 4000)


def test_a_schema_chooses_other_features(tmp_path):
    source, path = write(tmp_path / "data"), tmp_path / "schema.json"
    path.write_text(json.dumps(SMALL_SCHEMA))
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    command(tencent, *options, "--schema", path, "--methods", "lr")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["about"]["rows"] == 2 + 3 + CAMPAIGNS  # genders, systems, creatives
    assert len(report.load(tmp_path / "out").runs[0]["lr"]["campaigns"]) == 2
    (prepared,) = (tmp_path / "cache").iterdir()
    assert open_dataset(prepared).user_rows.shape == (USERS, 3)


# Asking before running -------------------------------------------------------------------------


@pytest.mark.parametrize("module", [tencent, movielens])
def test_help_says_what_every_option_does(module, capsys):
    with pytest.raises(SystemExit) as caught:
        command(module, "--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    lines = [line.strip(" │") for line in text.split("\n")]
    entries = dict(re.findall(r"^--([a-z][a-z-]+)(.*?)(?=^-|\Z)", "\n".join(lines), re.S | re.M))
    assert set(entries) == {f.name.replace("_", "-") for f in dataclasses.fields(module.Options)}
    for name, entry in entries.items():
        words = re.findall(r"(?<!\S)[A-Za-z][a-z]*\b", entry.partition("(default")[0])
        assert len(words) >= 5, (name, entry)


def test_a_dry_run_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "data")
    pickles = tmp_path / "pickles"
    pickles.mkdir()
    (pickles / "train_stage1.pkl").write_bytes(bytes(8000))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    options = ("--cache-dir", tmp_path / "cache", "--out", "out", "--methods", "all", "--dry-run")
    for more, words in (
        (("--users", 123_456), "simulate 123,456 users in "),
        (("--world", "wechat"), "simulated-wechat-600000-users-seed-0"),
        (("--runs", 3, "--tune", "rates"), "LR: 5 trials, then no offline steps"),
        (("--data-dir", source), f"about {USERS} users and 961 stage-1 examples"),
        (("--data-dir", pickles), "about 10 rows, 10 of them of stage 1"),
    ):
        command(tencent, *options, *more)
        printed = capsys.readouterr().out
        assert words in printed
        for method in methods.METHODS.values():
            assert f"{method.label}: " in printed
        assert re.search(r"roughly [\d.]+ GiB of memory and \d+ minutes", printed)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--runs", 0), ("--runs: expected 1 or more, got 0",)),
        (("--methods", "lr", "xgboost"), ("--methods: unknown 'xgboost'", "lr, mlp-one-stage")),
        (("--methods",), ("--methods: name at least one of lr",)),
        (("--seed", -1), ("--seed: expected 0 or more, got -1",)),
        (("--data-dir", "nowhere"), ("nowhere: no such folder",)),
        (("--data-dir", "nowhere", "--dry-run"), ("nowhere/userFeature.data: missing",)),
        (("--users", 0), ("expected users >= 1",)),
        (("--world", "wechat", "--data-dir", "."), ("--world wechat: is simulated",)),
        (("--world", "wechat", "--split", "official"), ("--world wechat: ", "its own split")),
        (("--schema", "none.json"), ("none.json: No such file",)),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_options_that_make_no_sense(tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    options = ("--cache-dir", "cache", "--out", "out", *arguments)
    refuses(capsys, tencent, *options, words=words)
    assert contents(tmp_path) == set()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"user": [', "schema.json: Expecting value: line 1"),
        ("[]", 'schema.json: schema: expected {"user"'),
        ('{"user": [{"name": 3}], "campaign": [{"name": "aid"}]}', "schema: field 3 needs a name"),
        ('{"user": [{"name": "a"}], "campaign": [{"name": "a"}]}', "'a' is named twice"),
    ],
)
def test_a_schema_that_is_none(tmp_path, capsys, text, words):
    path = tmp_path / "schema.json"
    path.write_text(text)
    options = ("--cache-dir", tmp_path / "cache", "--out", tmp_path / "out", "--schema", path)
    for more in ((), ("--dry-run",)):
        refuses(
            capsys, tencent, *options, "--data-dir", write_once(tmp_path), *more, words=(words,)
        )
    assert contents(tmp_path) == {"schema.json", "data"}


def write_once(directory: Path) -> Path:
    return directory / "data" if (directory / "data").exists() else write(directory / "data")


# Bad input -------------------------------------------------------------------------------------

FILES = world()
SEEDS = [n for n, line in enumerate(FILES[TRAIN].splitlines(), 1) if line.startswith(f"{AIDS[3]},")]
FAULTS = {
    "missing users": ({USER_FILE: None}, (f"{USER_FILE}: cannot be read (No such file",)),
    "missing ads": ({ADS: None}, (f"{ADS}: cannot be read (No such file",)),
    "missing examples": ({TRAIN: None}, (f"{TRAIN}: cannot be read (No such file",)),
    "missing pool": ({TRUTH: None}, (f"{TRUTH}: cannot be read (No such file",)),
    "empty users": ({USER_FILE: ""}, (f"{USER_FILE}: empty",)),
    "empty examples": ({TRAIN: ""}, (f"{TRAIN}: empty",)),
    "header only": ({TRAIN: "aid,uid,label\n"}, (f"{TRAIN}: no example after the header",)),
    "no ads": ({ADS: FILES[ADS].split("\n")[0]}, (f"{ADS}: no campaign after the header",)),
    "other header": ({TRAIN: with_line(FILES[TRAIN], 1, "uid,aid,label")}, (f"{TRAIN}: line 1:",)),
    "truncated user": (
        {USER_FILE: FILES[USER_FILE][: FILES[USER_FILE].rindex("|") + 1]},
        (f"{USER_FILE}: line {USERS}: expected 'field value value ...'",),
    ),
    "truncated example": (
        {TRAIN: FILES[TRAIN][: FILES[TRAIN].rindex(",")]},
        (f"{TRAIN}: line {1 + SEEN * CAMPAIGNS}: expected 3 columns",),
    ),
    "truncated ad": (
        {ADS: FILES[ADS][: FILES[ADS].rindex(",")]},
        (f"{ADS}: line {1 + CAMPAIGNS}: expected 8 columns, got 7",),
    ),
    "example's user is no integer": (
        {TRAIN: with_line(FILES[TRAIN], 5, f"{AIDS[0]},x7,1")},
        (f"{TRAIN}: line 5: expected a whole number as uid, got 'x7'",),
    ),
    "uid is no integer": (
        {USER_FILE: with_line(FILES[USER_FILE], 9, "uid 1.5|gender 1")},
        (f"{USER_FILE}: line 9: expected one uid, a whole number, got '1.5'",),
    ),
    "value is no integer": (
        {USER_FILE: with_line(FILES[USER_FILE], 9, "uid 5|gender male")},
        (f"{USER_FILE}: line 9: expected whole numbers", "'male'"),
    ),
    "uid twice": (
        {USER_FILE: with_line(FILES[USER_FILE], 7, "uid 1002|gender 1")},
        (f"{USER_FILE}: line 7: uid 1002 is already on line 3",),
    ),
    "label 3": (
        {TRAIN: with_line(FILES[TRAIN], 77, f"{AIDS[0]},1004,3")},
        (f"{TRAIN}: line 77: expected label 1 or -1, got '3'",),
    ),
    "label 3 in the pool": (
        {TRUTH: with_line(FILES[TRUTH], 2, f"{AIDS[0]},1004,3")},
        (f"{TRUTH}: line 2: expected label 1 or -1, got '3'",),
    ),
    "aid without features": (
        {TRAIN: with_line(FILES[TRAIN], 8, "999,1004,1")},
        (f"{TRAIN}: line 8: aid 999 has no line in adFeature.csv",),
    ),
    "user without features": (
        {TRUTH: with_line(FILES[TRUTH], 8, f"{AIDS[0]},77,1")},
        (f"{TRUTH}: line 8: uid 77 has no line in userFeature.data",),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_files_leave_nothing(tmp_path, capsys, fault):
    changes, words = FAULTS[fault]
    source = write(tmp_path / "data", **changes)
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    refuses(capsys, tencent, *options, words=words)
    assert contents(tmp_path) <= {"data", "cache"}
    assert contents(tmp_path / "cache") == set()


@pytest.mark.parametrize(
    ("side", "words"),
    [("user", (f"{USER_FILE}: no line has", "'shoeSize'")), ("campaign", (f"{ADS}: line 1:",))],
)
def test_a_field_that_the_files_do_not_have(tmp_path, capsys, side, words):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SMALL_SCHEMA | {side: [{"name": "shoeSize"}]}))
    options = ("--data-dir", write(tmp_path / "data"), "--schema", path)
    options += ("--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    refuses(capsys, tencent, *options, words=(*words, "shoeSize"))
    assert contents(tmp_path / "cache") == contents(tmp_path / "out") == set()


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
    refuses(capsys, tencent, *options, words=(words, "remove the campaign or add examples"))
    assert {path: path.stat().st_mtime_ns for path in finished.out.rglob("*")} == before
    (prepared,) = (tmp_path / "cache").iterdir()  # the files are well-formed: whole, and kept
    assert open_dataset(prepared).campaigns == CAMPAIGNS


def test_too_few_campaigns_for_a_step(tmp_path, capsys):
    def kept(text):
        lines = text.splitlines()
        return "\n".join(x for x in lines if x.split(",")[0] in ("aid", "100", "107")) + "\n"

    source = write(tmp_path / "data", **{name: kept(FILES[name]) for name in (ADS, TRAIN, TRUTH)})
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    refuses(capsys, tencent, *options, words=("1 training campaigns, but a meta-step takes 2",))
    assert contents(tmp_path / "out") == set()


def forbid(monkeypatch, path: Path) -> None:
    """As if there were no right to make folders in ``path``; root would ignore its mode."""
    mkdir = Path.mkdir

    def refuse(self, *arguments, **options):
        if self.is_relative_to(path):
            raise PermissionError(13, "Permission denied", str(self))
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)


@pytest.mark.parametrize("option", ["--cache-dir", "--out"])
@pytest.mark.parametrize("how", ["no right", "a file", "in a file"])
def test_folders_that_cannot_be_made(finished, tmp_path, capsys, monkeypatch, option, how):
    place = tmp_path / "place"
    options = {"--data-dir": finished.source, "--cache-dir": finished.cache, "--methods": "lr"}
    options |= {"--out": tmp_path / "out", option: place / "in" if how == "in a file" else place}
    if how == "no right":
        forbid(monkeypatch, place)
        words = ("Permission denied", place)
    else:
        place.write_text("mine")
        words = (place,)
    refuses(capsys, tencent, *(x for pair in options.items() for x in pair), words=words)
    assert contents(tmp_path) == (set() if how == "no right" else {"place"})
    if how != "no right":
        assert place.read_text() == "mine"


def test_a_folder_in_the_place_of_a_file(tmp_path, capsys):
    source = write(tmp_path / "data", **{TRAIN: None})
    (source / TRAIN).mkdir()
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    refuses(
        capsys, tencent, *options, words=(f"{source / TRAIN}: cannot be read (Is a directory)",)
    )
    assert contents(tmp_path) <= {"data", "cache"}


class Malicious:
    """Calls a function of the system when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


def test_a_malicious_pickle_does_nothing(tmp_path, capsys):
    source, victim = tmp_path / "data", tmp_path / "victim"
    source.mkdir()
    content = pickle.dumps(Malicious(victim))
    for frame in authors.FRAMES:
        for stage in ("stage1", "stage2"):
            (source / f"{frame}_{stage}.pkl").write_bytes(content)
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    words = (source / "train_stage1.pkl", "which is refused")
    refuses(capsys, tencent, *options, words=words)
    assert contents(tmp_path) == {"data"}
    pickle.loads(content)
    assert victim.exists()  # it would have done it


@pytest.mark.parametrize("module", ["tencent", "movielens"])
def test_a_process_ends_with_code_2_and_no_traceback(tmp_path, module):
    arguments = ("--data-dir", "nowhere", "--out", tmp_path / "out")
    ended = subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[1],
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: nowhere")
    assert ended.stderr.count("\n") == 1
    assert contents(tmp_path) == set()


# What is kept on disk --------------------------------------------------------------------------


def test_prepared_data_is_used_again_unless_something_changed(tmp_path, capsys, monkeypatch):
    source, out = write(tmp_path / "data"), tmp_path / "out"
    # The cache in the folder of the data: it must not count as a change of the data.
    options = ("--data-dir", source, "--cache-dir", source / "cache", "--out", out)
    options += ("--methods", "lr")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "run_methods", lambda *_, **__: {})
        patch.setattr(report, "write", lambda *_: None)
        command(tencent, *options)
        (prepared,) = (source / "cache").iterdir()
        patch.setattr("metaheac_jax.data.tencent.prepare", None)
        command(tencent, *options)
        command(tencent, *options, "--seed", 1)
        patch.undo()
    assert contents(source / "cache") == {prepared.name}
    column = prepared / "user_rows.npy"
    column.write_bytes(column.read_bytes()[:-1] + b"\7")
    refuses(capsys, tencent, *options, words=(f"{column}: altered since it was written",))
    (source / TRAIN).write_text(FILES[TRAIN].replace(",-1", ",0"))
    assert tencent.prepared(source, TENCENT, tencent.Options(data_dir=source)).name != prepared.name


def test_a_run_replaces_an_older_one_but_nobody_elses_folders(finished, tmp_path, capsys):
    out = tmp_path / "out"
    methods = out / "seed-0" / "methods"
    methods.mkdir(parents=True)
    (methods / "thesis.tex").write_text("ten years")
    options = (*finished.files, "--out", out, "--methods", "lr")
    refuses(capsys, tencent, *options, words=("it is not a run's folder; choose another --out",))
    assert (methods / "thesis.tex").read_text() == "ten years"


def test_a_target_that_is_something_else_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("ten years")
    (tmp_path / "file").write_text("")
    dataset = toy.dataset(users=30, campaigns=2, per_campaign=20, pool=20)
    for name in ("mine", "file"):
        with pytest.raises(InputError, match=f"{name}: exists and has no {MANIFEST}"):
            write_dataset(dataset, tmp_path / name)
    # As the simulation asks for it; a world that it would make takes seconds.
    with (
        pytest.raises(InputError, match="exists and has no SIMULATED"),
        new_directory(tmp_path / "mine", marker="SIMULATED"),
    ):
        pass
    assert contents(tmp_path) == {"mine", "file"}
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "ten years"
    (tmp_path / "empty").mkdir()
    write_dataset(dataset, tmp_path / "empty")
    assert open_dataset(tmp_path / "empty").users == 30


def test_a_new_directory_is_as_open_as_any(tmp_path):
    (tmp_path / "any").mkdir()
    with new_directory(tmp_path / "new") as directory:
        (directory / "file").write_text("")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("any", "new")}
    assert len(modes) == 1


@pytest.mark.parametrize("key", ["name", "schema", "files", "files/user_key.npy", "sha256"])
def test_a_manifest_that_lacks_something_is_named(tmp_path, key):
    write_dataset(toy.dataset(users=30, campaigns=2, per_campaign=20, pool=20), tmp_path / "out")
    path = tmp_path / "out" / MANIFEST
    manifest = json.loads(path.read_text())
    if key == "sha256":
        del manifest["files"]["user_key.npy"][key]
    elif key in manifest:
        del manifest[key]
    else:
        del manifest["files"]["user_key.npy"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=f"{MANIFEST}: (incomplete|names no user_key.npy)"):
        open_dataset(tmp_path / "out", verify=False)


def test_checksums_tell_how_far_they_are(tmp_path):
    told = []
    dataset = toy.dataset(users=30, campaigns=2, per_campaign=20, pool=20)
    write_dataset(dataset, tmp_path / "out", progress=lambda *call: told.append(call))
    written = list(told)
    open_dataset(tmp_path / "out", progress=lambda *call: told.append(call))
    total = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.npy"))
    assert written == told[len(written) :]
    assert written[-1] == ("checksums", total, total)
    assert [done for _, done, _ in written] == sorted({done for _, done, _ in written})


# MovieLens -------------------------------------------------------------------------------------


def write_movies(directory: Path) -> Path:
    """150 users and 10 movies, which four users in five like or rate lower."""
    directory.mkdir()
    rng = np.random.default_rng(3)
    users = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    users += [
        f"{u}\t{20 + u % 40}\t{'MF'[u % 2]}\tjob{u % 3}\t{10000 + 99 * u}" for u in range(150)
    ]
    items = ["item_id:token\trelease_year:token\tclass:token_seq"]
    items += [f"{m}\t{1980 + m}\tDrama{' War' * (m % 2)}" for m in range(10)]
    ratings = ["user_id:token\titem_id:token\trating:float"]
    for m in range(10):
        raters = rng.permutation(150)[:120]
        ratings += [f"{u}\t{m}\t{5 if i < 70 else 2}" for i, u in enumerate(raters)]
    for kind, lines in (("user", users), ("item", items), ("inter", ratings)):
        (directory / f"ml-100k.{kind}").write_text("\n".join(lines) + "\n")
    return directory


def test_movielens_over_runs_and_resumed(tmp_path, capsys, monkeypatch):
    source, out = write_movies(tmp_path / "data"), tmp_path / "out"
    options = ("--data-dir", source, "--runs", 2, "--methods", "lr", "--out", out)
    refuses(capsys, movielens, *options, "--resume", words=("seed-0: no run to resume",))
    assert contents(out) == set()
    build, seeds = movielens.build_movielens, []

    def interrupted(*arguments, seed, **more):
        seeds.append(seed)
        if seed == 1:
            raise KeyboardInterrupt
        return build(*arguments, seed=seed, **more)

    with monkeypatch.context() as patch:
        patch.setattr(movielens, "build_movielens", interrupted)
        with pytest.raises(SystemExit) as caught:
            command(movielens, *options)
    assert caught.value.code == 130
    assert contents(out) == {"seed-0"}
    first = out / "seed-0" / "methods" / "lr.json"
    done = first.stat().st_mtime_ns

    command(movielens, *options, "--resume")
    assert first.stat().st_mtime_ns == done
    assert contents(out) == {
        *("seed-0", "seed-1", "results.json", "campaigns.jsonl"),
        *("report.md", "report.html", "auc.png", "auc_by_seeds.png"),
    }
    stored = report.load(out).runs
    assert len(stored) == 2
    assert list(stored[0]) == ["lr", "activity (no campaign)", "like-rate (no campaign)"]
    text = (out / "report.md").read_text()
    assert re.search(r"\| LR \| \d\.\d{4} ±\d\.\d{4} \|", text)
    assert "| like-rate (no campaign) | " in text
    assert "[paper]" not in text


def test_movielens_names_the_faulty_line(tmp_path, capsys):
    source = write_movies(tmp_path / "data")
    path = source / "ml-100k.inter"
    path.write_text(with_line(path.read_text(), 6, "three\t1\t5"))
    options = ("--data-dir", source, "--out", tmp_path / "out")
    refuses(capsys, movielens, *options, words=(f"{path}:6: user_id is no non-negative integer",))
    refuses(capsys, movielens, *options, "--runs", 0, words=("--runs: expected 1 or more, got 0",))
    assert contents(tmp_path) == {"data"}
