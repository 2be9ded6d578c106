"""From a simulated world to an audience, by the commands that the README shows."""

import csv
import json
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import polars as pl
import pytest
from commands import (
    contents,
    exit_code,
    explanations,
    refuses,
    small_simulation,
    succeeds,
    tiny_settings,
)
from toy import dataset

from metaheac_jax.audience.calibration import calibration_table
from metaheac_jax.audience.evaluation import pool_gains, pool_probabilities, score_pools
from metaheac_jax.audience.retrieve import expand
from metaheac_jax.cli import terminal
from metaheac_jax.cli.main import Command, main
from metaheac_jax.data.splits import paper_split
from metaheac_jax.data.storage import open_dataset, write_dataset
from metaheac_jax.methods import method_named, method_of
from metaheac_jax.model import load, save
from metaheac_jax.schema import TENCENT

USERS = 4000
COMMANDS = (
    *("simulate", "prepare", "fit", "customise", "expand", "export", "feedback", "update"),
    *("outcome", "curve", "traits", "overlap", "evaluate", "status"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Everything that the commands make, and what they print."""
    folder = tmp_path_factory.mktemp("made")
    paths = {name: folder / name for name in ("world", "data", "model", "paper")}
    with small_simulation(12, USERS), tiny_settings():
        succeeds(main, "simulate", paths["world"], "--users", USERS, "--world", "wechat")
    succeeds(main, "prepare", paths["world"], paths["data"])
    succeeds(main, "fit", paths["data"], paths["model"], "--method", "cosine")
    options = ("--method", "cosine", "--campaigns", "paper", "--seed", 3)
    succeeds(main, "fit", paths["data"], paths["paper"], *options)
    return SimpleNamespace(**paths)


def files(made, **changed):
    """The options of `metaheac expand` for the example campaign."""
    options = {
        "data": made.data,
        "seeds": made.world / "example_seeds.csv",
        "attributes": made.world / "example_attributes.json",
        "least-seeds": 5,
    }
    return [word for name, value in {**options, **changed}.items() for word in (f"--{name}", value)]


def rows_of(path):
    return list(csv.reader(path.read_text().splitlines()))


def test_a_simulated_world_has_an_example_campaign(made):
    train = pl.read_csv(made.world / "train.csv").filter(pl.col("label") == 1)
    counts = train["aid"].value_counts().sort("count")
    attributes = json.loads((made.world / "example_attributes.json").read_text())
    assert list(attributes) == [field.name for field in TENCENT.campaign]
    ads = pl.read_csv(made.world / "adFeature.csv")
    [aid] = ads.filter(**attributes)["aid"].to_list() or [None]
    assert counts.filter(aid=aid)["count"].item() == counts["count"].max()
    [header], *seeds = rows_of(made.world / "example_seeds.csv")
    assert header == "user_id"
    assert [int(seed) for [seed] in seeds] == train.filter(aid=aid)["uid"].to_list()


def test_a_world_with_somebodys_file_is_not_replaced(made, capsys):
    (made.world / "shown.csv").write_text("user_id,converted\n")
    words = (f"OUT: {made.world} is replaced as a whole, and shown.csv in it would be lost",)
    refuses(capsys, main, "simulate", made.world, words=words)
    (made.world / "shown.csv").unlink()
    terminal.check_output_folder("OUT", made.world, "world.json", "a simulated world")


def test_prepared_data_and_models_are_those_of_the_library(made):
    data = open_dataset(made.data)
    assert (data.num_users, data.num_campaigns) == (USERS, 12)
    everything, paper = load(made.model), load(made.paper)
    assert everything.method == paper.method == "cosine"
    assert everything.campaigns == tuple(data.campaign_ids.tolist())
    train = paper_split(data, 3).train
    assert paper.campaigns == tuple(data.campaign_ids[train].tolist())
    assert paper.seed == 3
    assert not [name for name in contents(made.data.parent) if name.endswith(".training")]


def test_an_audience_is_the_librarys(made, tmp_path, capsys):
    out = tmp_path / "audience.csv"
    capsys.readouterr()
    succeeds(main, "expand", made.model, *files(made), "--size", 50, "--out", out)
    printed = capsys.readouterr().out
    header, *rows = rows_of(out)
    assert header == ["rank", "user_id", "score"]
    assert [int(rank) for rank, _, _ in rows] == list(range(1, 51))
    found = [float(score) for _, _, score in rows]
    assert found == sorted(found, reverse=True)

    data, general = open_dataset(made.data), load(made.model)
    seeds = [int(seed) for [seed] in rows_of(made.world / "example_seeds.csv")[1:]]
    attributes = json.loads((made.world / "example_attributes.json").read_text())
    campaign = data.new_campaign(seeds, attributes)
    method = method_named(general.method, general.settings)
    [model] = method.customise(general, data, [campaign])
    audience = expand(model, data, size=50)
    assert [int(user) for _, user, _ in rows] == audience.user_ids.tolist()
    assert np.array(found, np.float32).tolist() == audience.scores.tolist()
    assert not np.isin(audience.user_ids, seeds).any()
    count = f"{len(seeds):,}"
    line = f"seeds: {count} given, {count} distinct, {count} of them users of the data (100%)\n"
    assert line in printed
    assert "note: with fewer than 1,000 seeds an audience is less reliable" in printed
    assert f"{out}: 50 users of {USERS - len(seeds):,} candidates\n" in printed
    assert contents(tmp_path) == {"audience.csv", "audience.csv.json"}


def test_seeds_can_be_included_and_users_excluded(made, tmp_path):
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    options = files(made, percent=2)  # more users than there are seeds
    succeeds(main, "expand", made.model, *options, "--include-seeds", "--out", first)
    users = [user for _, user, _ in rows_of(first)[1:]]
    seeds = [seed for [seed] in rows_of(made.world / "example_seeds.csv")[1:]]
    assert len(users) == USERS // 50
    assert set(users) & set(seeds)
    others = [user for user in users if user not in seeds]
    (tmp_path / "opted_out").write_text("\n".join(["id", *others[:3]]))
    (tmp_path / "more").write_text(f"{others[5]}\n999999999\n")
    exclude = ("--exclude", tmp_path / "opted_out", tmp_path / "more")
    succeeds(main, "expand", made.model, *options, "--include-seeds", *exclude, "--out", second)
    left = [user for user in users if user not in {*others[:3], others[5]}]
    assert [user for _, user, _ in rows_of(second)[1:]][: len(left)] == left


def test_evaluate_judges_the_campaigns_that_were_left_out(made, tmp_path, capsys):
    out = tmp_path / "figures.json"
    capsys.readouterr()
    succeeds(main, "evaluate", made.paper, "--data", made.data, "--out", out)
    printed = capsys.readouterr().out
    result, data = json.loads(out.read_text()), open_dataset(made.data)
    judged = [campaign["campaign"] for campaign in result["campaigns"]]
    left_out = [left["campaign"] for left in result["left_out"]]
    test = data.campaign_ids[paper_split(data, 3).test].tolist()
    assert sorted(judged + left_out) == test
    assert judged
    for group in ("small", "large"):
        members = [c["auc"] for c in result["campaigns"] if c["group"] == group]
        assert members
        assert f" {np.mean(members):.4f} " in printed
    assert "cosine to the mean seed on simulated" in printed
    assert "calibration" not in printed  # a cosine is no log-odds
    for group, tables in result["groups"].items():
        gains = tables["gains"]
        members = {c["campaign"] for c in result["campaigns"] if c["group"] == group}
        pools = np.flatnonzero(np.isin(data.campaign_ids, list(members)))
        assert sum(row["users"] for row in gains) == data.stage2.counts[pools].sum()
        assert sum(row["converts"] for row in gains) == data.stage2.positives[pools].sum()
        assert tables["calibration"] == []
    for left in result["left_out"]:
        assert f"campaign {left['campaign']} could not be judged: {left['why']}" in printed


def library_tables(model, dataset, result):
    """The gains and calibration rows of each group's judged campaigns of the paper's split."""
    general, test = load(model), paper_split(dataset, 3).test
    scores = score_pools(method_of(general), general, dataset, test, seed=0).scores
    tables = {}
    for group in ("small", "large"):
        judged = {c["campaign"] for c in result["campaigns"] if c["group"] == group}
        pairs = zip(test, scores, strict=True)
        members = [(c, own) for c, own in pairs if dataset.campaign_ids[c] in judged]
        campaigns, own = zip(*members, strict=True)
        labels = np.concatenate([dataset.stage2.label[dataset.stage2.of(c)] for c in campaigns])
        predicted = [pool_probabilities(dataset, c, s) for c, s in zip(campaigns, own, strict=True)]
        bins = calibration_table(np.concatenate(predicted), labels)
        gains = pool_gains(dataset, campaigns, own)
        tables[group] = [{**asdict(r), "rate": r.rate} for r in gains], [asdict(r) for r in bins]
    return tables


def test_evaluate_names_campaigns_that_may_not_be_new(made, capsys, monkeypatch):
    name = "metaheac_jax.cli.evaluate.added_like"
    like = lambda general, data, campaign: {1: "tea"}.get(place[campaign.id])  # noqa: E731
    data = open_dataset(made.data)
    test = data.campaign_ids[paper_split(data, 3).test].tolist()
    place = {own: number for number, own in enumerate(test)}
    monkeypatch.setattr(name, like)
    capsys.readouterr()
    succeeds(main, "evaluate", made.paper, "--data", made.data)
    [line] = [line for line in capsys.readouterr().out.splitlines() if "attributes of" in line]
    assert line.startswith(f"note: campaign {test[1]} may have the attributes of tea, which")


def test_evaluate_judges_no_campaigns_that_were_held_out_in_training(made, tmp_path, capsys):
    model, out = tmp_path / "model", tmp_path / "figures.json"
    options = ("--method", "prior", "--campaigns", "paper", "--seed", 3)
    succeeds(main, "fit", made.data, model, *options)
    capsys.readouterr()
    succeeds(main, "evaluate", model, "--data", made.data, "--out", out)
    assert "calibration" not in capsys.readouterr().out  # at the ratio of all campaigns
    result, data = json.loads(out.read_text()), open_dataset(made.data)
    assert load(model).held_out
    found = [campaign["campaign"] for campaign in result["campaigns"] + result["left_out"]]
    assert sorted(found) == data.campaign_ids[paper_split(data, 3).test].tolist()


def test_evaluate_shows_gains_and_calibration(made, tmp_path, capsys):
    model = tmp_path / "model"
    options = ("--method", "lr", "--campaigns", "paper", "--seed", 3)
    succeeds(main, "fit", made.data, model, *options)
    capsys.readouterr()
    for out in (tmp_path / "figures.json", tmp_path / "gains.csv"):
        succeeds(main, "evaluate", model, "--data", made.data, "--out", out)
    printed = capsys.readouterr().out
    result, data = json.loads((tmp_path / "figures.json").read_text()), open_dataset(made.data)
    groups = result["groups"]
    for group, (gains, calibration) in library_tables(model, data, result).items():
        assert groups[group]["gains"] == gains
        assert groups[group]["calibration"] == calibration
    header, *rows = rows_of(tmp_path / "gains.csv")
    assert header == ["seed_sets", "decile", "users", "converts", "rate", "lift", "share"]
    for group, tables in groups.items():
        own = [[float(cell) for cell in row] for name, *row in rows if name == group]
        assert own == [[row[name] for name in header[1:]] for row in tables["gains"]]
        assert sum(row["users"] for row in tables["calibration"]) == sum(row[1] for row in own)
        error = f"{tables['calibration_error']:.4f}"
        assert f"rates of converts, expected calibration error {error}\n" in printed
    assert printed.count("seeds: gains by tenth of the users, best first\n") == 4


def test_evaluate_compares_two_models_on_the_campaigns_of_both(made, tmp_path, capsys):
    lr, ours, theirs = tmp_path / "lr", tmp_path / "ours.json", tmp_path / "theirs.json"
    options = ("--method", "lr", "--campaigns", "paper", "--seed", 3)
    succeeds(main, "fit", made.data, lr, *options)
    succeeds(main, "evaluate", lr, "--data", made.data, "--out", theirs)
    earlier = json.loads(theirs.read_text())
    small = [own for own in earlier["campaigns"] if own["group"] == "small"]
    earlier["campaigns"].remove(small[0])  # the earlier model has learned from it
    theirs.write_text(json.dumps(earlier))
    capsys.readouterr()
    compare = ("evaluate", made.paper, "--data", made.data, "--against", theirs)
    succeeds(main, *compare, "--out", ours)
    printed, result = capsys.readouterr().out, json.loads(ours.read_text())
    other = {own["campaign"]: own for own in earlier["campaigns"]}
    digests = [result["model"], result["against"]["model"]]
    assert digests == [load(own).origin.digest for own in (made.paper, lr)]
    assert "other data" not in printed
    for group, found in result["against"]["groups"].items():
        own = [c for c in result["campaigns"] if c["group"] == group and c["campaign"] in other]
        assert found["campaigns"] == len(own) == sum(c["group"] == group for c in other.values())
        for name in ("auc", "precision", "recall"):
            change = np.array([c[name] - other[c["campaign"]][name] for c in own])
            assert found[name]["mean"] == pytest.approx(change.mean())
            if len(own) == 1:
                assert found[name]["error"] is None
            else:
                error = np.std(change, ddof=1) / np.sqrt(len(own))
                assert found[name]["error"] == pytest.approx(error)
            assert found[name]["higher"] == (change > 0).sum()
        auc = found["auc"]
        error = "" if len(own) == 1 else f" ±{auc['error']:.4f}"
        assert f" {auc['mean']:+.4f}{error} " in printed
        assert f" {auc['higher']} of {len(own)} " in printed
    assert f"\nminus {theirs}, on the campaigns of both\n" in printed
    theirs.write_text(json.dumps({**earlier, "data": "another"}))
    succeeds(main, *compare, "--out", tmp_path / "again.JSON")
    assert "note: those results are of other data, whose users and ex" in capsys.readouterr().out
    assert json.loads((tmp_path / "again.JSON").read_text()) == result

    words = (f"--out: {theirs} would replace a file that is read",)
    refuses(capsys, main, *compare, "--out", theirs, words=words)
    for text, words in (
        ('{"campaigns": [{"campaign": 1}]}', "not the results of metaheac evaluate; give a file f"),
        ("[]", "not the results of metaheac evaluate"),
        ('{"campaigns": [], "data": "x", "model": "y"}', "has none of the "),
    ):
        theirs.write_text(text)
        refuses(capsys, main, *compare, words=(str(theirs), words))


def test_evaluate_shows_a_name_in_brackets(tmp_path, capsys):
    data = replace(dataset(users=200, campaigns=4, per_campaign=40, pool=40), name="[toy]")
    write_dataset(data, tmp_path / "data")
    save(method_named("cosine").fit(data, campaigns=[0, 1, 2]), tmp_path / "model")
    succeeds(main, "evaluate", tmp_path / "model", "--data", tmp_path / "data")
    assert "\ncosine to the mean seed on [toy]\n" in capsys.readouterr().out


def test_evaluate_says_how_many_campaigns_it_does_not_judge_and_why(tmp_path, capsys):
    data = dataset(users=200, campaigns=6, per_campaign=40, pool=40)
    kept = ~np.isin(data.stage2.campaign, (1, 4))  # the first of these is trained on
    write_dataset(replace(data, stage2=data.stage2.pick(kept)), tmp_path / "data")
    model = method_named("cosine").fit(open_dataset(tmp_path / "data"), campaigns=[0, 1, 2])
    save(model, tmp_path / "model")
    succeeds(main, "evaluate", tmp_path / "model", "--data", tmp_path / "data")
    words = (
        "judged 2 of 6 campaigns; the others: 3 trained on or held out of training, 1 without "
        "examples of stage 2"
    )
    assert words in " ".join(capsys.readouterr().out.split())


def test_evaluate_leaves_out_a_campaign_without_examples(tmp_path, capsys):
    data = dataset(users=150, campaigns=6, per_campaign=60, pool=40)
    kept = data.stage1.campaign != 5
    write_dataset(replace(data, stage1=data.stage1.pick(kept)), tmp_path / "data")
    model = method_named("cosine").fit(open_dataset(tmp_path / "data"), campaigns=[0, 1, 2])
    save(model, tmp_path / "model")
    succeeds(main, "evaluate", tmp_path / "model", "--data", tmp_path / "data")
    name = data.campaign_ids[5]
    words = f"campaign {name} could not be judged: it has fewer than 20 examples of stage 1 to"
    assert words in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("stage2", "has no examples of stage 2, on which audiences are judged; prepare it from"),
        ("stage1", "was not trained on have fewer than 20 examples of stage 1 to customise on"),
    ],
)
def test_evaluate_says_which_examples_the_data_lacks(tmp_path, capsys, stage, said):
    data = dataset(users=150, campaigns=6, per_campaign=60, pool=40)
    examples = getattr(data, stage)
    kept = examples.campaign < (3 if stage == "stage1" else 0)
    cut = replace(data, **{stage: examples.pick(kept)})
    write_dataset(cut, tmp_path / "data")
    model = method_named("cosine").fit(open_dataset(tmp_path / "data"), campaigns=[0, 1, 2])
    save(model, tmp_path / "model")
    words = (said,)
    refuses(capsys, main, "evaluate", tmp_path / "model", "--data", tmp_path / "data", words=words)


def test_evaluate_needs_campaigns_that_were_left_out(made, tmp_path, capsys):
    words = (f"{made.model}: was trained on every campaign", "`metaheac fit --campaigns paper`")
    options = ("--data", made.data, "--out", tmp_path / "figures.json")
    refuses(capsys, main, "evaluate", made.model, *options, words=words)
    assert contents(tmp_path) == set()


@pytest.mark.parametrize("command", ["evaluate", "expand"])
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--seed": -1}, "--seed: expected 0 or more, got -1"),
        ({"--data": "nowhere"}, "nowhere: has no manifest.json; prepare the data first"),
        ({"--out": "no/folder/file.csv"}, "--out: no/folder is not a folder; make it first"),
        ({"--out": "file"}, "file: expected a name that ends with ."),
    ],
)
def test_options_that_make_no_sense(made, tmp_path, capsys, monkeypatch, command, changed, words):
    monkeypatch.chdir(tmp_path)
    more = files(made) if command == "expand" else ["--data", made.data]
    options = {**dict(zip(more[::2], more[1::2], strict=True)), "--out": "file.csv", **changed}
    if command == "expand":
        options["--size"] = 5
    given = (word for pair in options.items() for word in pair)
    refuses(capsys, main, command, made.paper, *given, words=(words,))
    assert contents(tmp_path) == set()


def test_a_folder_that_is_no_model_is_named(made, tmp_path, capsys):
    words = (f"{made.data}: has no model.json; give the folder that `save` or `metaheac fit`",)
    options = (*files(made), "--size", 5, "--out", tmp_path / "file.csv")
    refuses(capsys, main, "expand", made.data, *options, words=words)
    assert contents(tmp_path) == set()


# As a user runs it ------------------------------------------------------------------------------


def metaheac(*arguments):
    words = [sys.executable, "-m", "metaheac_jax", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_help_names_the_subcommands():
    done = metaheac("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for name in COMMANDS:
        assert f" {name} " in done.stdout


def test_a_process_ends_with_code_2_and_no_traceback(made, tmp_path):
    seeds, out = tmp_path / "seeds", tmp_path / "audience.csv"
    seeds.write_text("1\n2\nthree\n")
    done = metaheac("expand", made.model, *files(made, seeds=seeds), "--size", 5, "--out", out)
    assert done.returncode == 2
    assert done.stderr == f"error: {seeds}:3: expected one user id, got 'three'\n"
    assert not out.exists()


@pytest.mark.parametrize(("name", "part"), [*zip(COMMANDS, get_args(Command), strict=True)])
def test_a_subcommand_explains_itself(capsys, name, part):
    options = get_args(part)[0]
    assert options.__module__ == f"metaheac_jax.cli.{name}"
    explanations(capsys, main, options, name)


def test_no_subcommand_is_an_error(capsys):
    assert exit_code(main) == 2
