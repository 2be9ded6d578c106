"""From a world's tables to a second audience that is better than the first, by the commands."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from commands import contents, refuses, small_simulation, succeeds, tiny_settings, write_few_fields

from experiments.examples.exported_scorer import ExportedScorer
from metaheac_jax.audience.campaign_folder import read_campaign
from metaheac_jax.audience.report import describe_audience
from metaheac_jax.audience.workspace import find_items
from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaigns import KEPT_GENERAL
from metaheac_jax.cli.main import main
from metaheac_jax.cli.status import items_table
from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.examples import group_by_campaign
from metaheac_jax.data.storage import open_dataset, write_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.methods.method import Method
from metaheac_jax.model import load

RAY_EXPAND = Path(__file__).parents[2] / "experiments" / "examples" / "ray_expand.py"


def truth(world, campaign):
    """The true probability that each user converts, by user id."""
    frame = pl.read_parquet(world / "new" / campaign / "truth.parquet")
    return dict(zip(frame["user_id"], frame["probability"], strict=True))


def show(world, campaign, audience, out, seed=0):
    """Plays the market: writes who of an audience converted."""
    chance, rng = truth(world, campaign), np.random.default_rng(seed)
    users = pl.read_csv(audience)["user_id"].to_list()
    converted = [int(rng.random() < chance[user]) for user in users]
    pl.DataFrame({"user_id": users, "converted": converted}).write_csv(out)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A world of 4,000 users, its data, a model, and two campaigns customised to it."""
    folder = tmp_path_factory.mktemp("made")
    world, data, model = folder / "world", folder / "data", folder / "model"
    with small_simulation(16), tiny_settings():
        options = ("--users", 4000, "--world", "wechat", "--tables")
        succeeds(main, "simulate", world, *options)
        schema = json.loads((world / "schema.json").read_text())
        write_few_fields(world / "schema.json", schema)
        succeeds(main, "prepare", world, data, "--schema", world / "schema.json")
        succeeds(main, "fit", data, model, "--method", "mlp-pretraining")
        names = sorted(path.name for path in (world / "new").iterdir())
        for name in names[:2]:
            brief = world / "new" / name
            options = ("--seeds", brief / "seeds.csv", "--attributes", brief / "attributes.json")
            out = folder / "campaigns" / name
            succeeds(main, "customise", model, "--data", data, *options, "--out", out)
        yield SimpleNamespace(
            folder=folder,
            world=world,
            data=data,
            model=model,
            names=names,
            campaigns=[folder / "campaigns" / name for name in names[:2]],
        )


def test_a_world_of_tables_with_somebodys_file_is_not_replaced(made, capsys):
    place = Path("new") / made.names[0] / "shown.csv"
    (made.world / place).write_text("user_id,converted\n")
    refuses(capsys, main, "simulate", made.world, words=(f"{place} in it would be lost",))
    (made.world / place).unlink()
    terminal.check_output_folder("OUT", made.world, "world.json", "a simulated world")


def test_a_world_of_tables_has_new_campaigns(made):
    data, campaigns = open_dataset(made.data), pl.read_parquet(made.world / "campaigns.parquet")
    assert (data.num_users, data.num_campaigns) == (4000, 6)
    assert contents(made.world) == {
        *("users.parquet", "campaigns.parquet", "examples.parquet", "schema.json"),
        *("SIMULATED", "world.json", "new"),
    }
    assert len(made.names) == 10
    assert not set(made.names) & set(campaigns["campaign_id"])
    chance = truth(made.world, made.names[0])
    assert set(chance) == {key.decode() for key in data.user_ids}
    seeds = pl.read_csv(made.world / "new" / made.names[0] / "seeds.csv")["user_id"]
    assert seeds.is_unique().all()
    assert 100 < len(seeds) <= 300
    # Who converts is likelier to, by far.
    assert np.mean([chance[user] for user in seeds]) > 1.5 * np.mean(list(chance.values()))


def test_the_way_to_a_second_audience(made, tmp_path, capsys):
    for folder in ("model", "campaigns"):
        shutil.copytree(made.folder / folder, tmp_path / folder)
    for name in made.names[:2]:
        campaign = tmp_path / "campaigns" / name
        first, second = tmp_path / f"{name}-1.csv", tmp_path / f"{name}-2.csv"
        told = tmp_path / f"{name}.csv"
        expand = ("expand", campaign, "--data", made.data, "--size", 200)
        succeeds(main, *expand, "--out", first)
        show(made.world, name, first, told)
        succeeds(main, "feedback", campaign, told)
        succeeds(main, "update", campaign, "--data", made.data)
        succeeds(main, *expand, "--out", second)

        rows = pl.read_csv(told)
        converts = set(rows.filter(pl.col("converted") == 1)["user_id"])
        users = [set(pl.read_csv(path)["user_id"]) for path in (first, second)]
        seeds = set(pl.read_csv(made.world / "new" / name / "seeds.csv")["user_id"])
        assert converts
        assert not users[0] & seeds
        assert not users[1] & (seeds | converts)
        assert len(users[0]) == len(users[1]) == 200
        assert users[0] != users[1]
        saved = read_campaign(campaign)
        assert saved.learned == (200, len(converts), 0)

        new = tmp_path / f"{name}-new.csv"
        assert users[1] & users[0]  # users who were shown it and did not convert come back
        capsys.readouterr()
        succeeds(main, *expand, "--out", new, "--exclude-shown")
        assert "note: 200 users who were shown the campaign are left out\n" in (
            capsys.readouterr().out
        )
        fresh = set(pl.read_csv(new)["user_id"])
        assert users[1] - users[0] <= fresh
        assert not fresh & users[0]
        # Users who opt out stay out, and converts may be named among them.
        out = tmp_path / f"{name}-out.csv"
        out.write_text("\n".join(["user_id", *sorted(fresh)[:9], *sorted(converts)[:1]]))
        both = ("--out", new, "--exclude-shown", "--exclude", out)
        succeeds(main, *expand, *both)
        words = f"note: 1 of the excluded users are seeds or converts that {campaign} learns from"
        assert words in capsys.readouterr().out
        assert not set(pl.read_csv(new)["user_id"]) & {*sorted(fresh)[:9], *users[0]}

        capsys.readouterr()
        succeeds(main, "feedback", campaign, told, told)
        assert "now feedback on 200 users (0 of them new)" in capsys.readouterr().out
        before = (campaign / "campaign.json").read_bytes()
        succeeds(main, "update", campaign, "--data", made.data)
        words = "feedback, data, model, seed and who is left out are as before; nothing to do"
        assert words in capsys.readouterr().out
        assert (campaign / "campaign.json").read_bytes() == before


@pytest.mark.slow
def test_an_update_learns_from_users_whom_the_data_lacked(made, tmp_path, capsys):
    """Also where there is no other feedback than before, and with another seed."""
    campaign, fewer, told = tmp_path / "tea", tmp_path / "fewer", tmp_path / "told.csv"
    shutil.copytree(made.campaigns[1], campaign)
    saved = read_campaign(campaign)
    data = open_dataset(made.data)
    known = np.isin(data.user_ids, saved.examples.user_ids)
    shown = data.user_ids[np.flatnonzero(~known)[:20]]
    kept = ~np.isin(data.user_ids, shown)
    none = group_by_campaign(*np.empty((3, 0), int), num_campaigns=data.num_campaigns)
    write_dataset(
        replace(
            data,
            user_ids=data.user_ids[kept],
            user_rows=data.user_rows[kept],
            stage1=none,
            stage2=none,
            sensitive={},
        ),
        fewer,
    )
    told.write_text("user_id,converted\n" + "".join(f"{user.decode()},1\n" for user in shown))
    succeeds(main, "feedback", campaign, told)
    lines = []
    for options in (
        ("--data", fewer),
        ("--data", fewer),
        ("--data", made.data),
        ("--data", made.data, "--seed", 1),
        ("--data", made.data, "--seed", 1),
    ):
        capsys.readouterr()
        succeeds(main, "update", campaign, "--model", made.model, *options)
        lines.append(capsys.readouterr().out.partition(": ")[2])
    before = len(saved.feedback)
    again = f"customised again, with feedback on {before + 20} users: {{}} of them are users of th"
    same = "feedback, data, model, seed and who is left out are as before; nothing to do"
    full = again.format(before + 20)
    starts = (again.format(before), same, full, full, same)
    for line, start in zip(lines, starts, strict=True):
        assert " ".join(line.split()).startswith(start)
    told = [f"{campaign}: none of the users with feedback is a user of" in line for line in lines]
    assert told == [before == 0, False, False, False, False]


def test_a_list_names_new_campaigns_and_folders(made, tmp_path, capsys):
    """The audience of a folder, or of a new campaign, is that of the campaign alone."""
    new, folder = made.names[1], os.path.relpath(made.campaigns[0], tmp_path)
    old = tmp_path / folder
    out, brief = tmp_path / "audiences", made.world / "new" / new
    attributes = json.loads((brief / "attributes.json").read_text())
    first = made.world / "new" / made.names[0] / "seeds.csv"
    entries = [
        {"name": "first", "seeds": str(first), "attributes": attributes},
        {"name": "new", "seeds": str(brief / "seeds.csv"), "attributes": attributes},
        {"name": "old", "folder": folder},
    ]
    (tmp_path / "list").write_text("\n".join(map(json.dumps, entries)))
    saved = read_campaign(old)
    others = saved.record.user_ids[saved.record.labels == 0]
    (tmp_path / "out.csv").write_text(others[0].decode())
    options = ("--data", made.data, "--size", 300, "--exclude", tmp_path / "out.csv")
    of_list = ("expand", made.model, *options, "--campaigns", tmp_path / "list", "--out", out)
    succeeds(main, *of_list)
    for name, of in (
        (
            "new",
            (made.model, "--seeds", brief / "seeds.csv", "--attributes", brief / "attributes.json"),
        ),
        ("old", (old,)),
    ):
        succeeds(main, "expand", *of, *options, "--out", tmp_path / f"{name}.csv")
        assert (out / f"{name}.csv").read_text() == (tmp_path / f"{name}.csv").read_text()
    facts = json.loads((out / "audiences.json").read_text())["campaigns"]
    notes = [" ".join(entry["notes"]) for entry in facts]
    update = f"1 of the excluded users are non-seeds that {old} learns from"
    assert [update in text for text in notes] == [False, False, True]
    parents = {item.path.name: len(item.parents) for item in find_items(out)}
    assert KEPT_GENERAL not in notes[1]
    # The parents are model and data, and the folder.
    assert parents == {"first.csv": 2, "new.csv": 2, "old.csv": 3}

    (tmp_path / "out.csv").write_text(saved.record.user_ids[saved.record.labels == 1][0].decode())
    words = ("campaign old: --exclude: ", "customised to users who are to be left out; if they")
    refuses(capsys, main, *of_list, words=words)
    words = (f"--adapts: {old} is a campaign, which is customised",)
    refuses(capsys, main, *of_list, "--adapts", "heads", words=words)
    entries[2]["folder"] = str(made.model)
    (tmp_path / "list").write_text(json.dumps(entries))
    words = (f"campaign old: {made.model}", "give the folder that `metaheac customise` has written")
    refuses(capsys, main, *of_list, words=words)


def test_a_folder_of_yesterdays_model_is_updated_first(made, tmp_path, capsys):
    """Where a list has the folder: the error names the command, after which the list expands."""
    model = tmp_path / "model"
    shutil.copytree(made.campaigns[0], tmp_path / "tea")
    with tiny_settings():
        succeeds(main, "fit", made.data, model, "--method", "mlp-pretraining", "--seed", 1)
    (tmp_path / "list").write_text(json.dumps({"name": "old", "folder": "tea"}))
    options = ("--data", made.data, "--campaigns", tmp_path / "list", "--size", 5)
    expand = ("expand", model, *options, "--out", tmp_path / "out")
    update = ("update", tmp_path / "tea", "--data", made.data, "--model", model)
    printed = " ".join(map(str, update)).replace(str(made.data), "DATA")
    words = ("was customised from another general model than that in", f"`metaheac {printed}`")
    refuses(capsys, main, *expand, words=words)
    assert contents(tmp_path) == {"model", "tea", "list"}
    line = f"{tmp_path / 'tea'}: from another general model than before, in {model}\n"
    for seed, is_other in ((0, True), (1, False)):
        succeeds(main, *update, "--seed", seed)
        assert (line in capsys.readouterr().out) == is_other
    succeeds(main, *expand)
    assert contents(tmp_path) == {"model", "tea", "list", "out"}


@pytest.mark.slow
def test_many_campaigns_may_share_the_first_layer(made, tmp_path, capsys):
    list_of(made, tmp_path / "list", made.names[:2])
    audiences = []
    for adapts in ("all", "heads"):
        out = tmp_path / adapts
        options = ("--data", made.data, "--campaigns", tmp_path / "list", "--size", 300)
        succeeds(main, "expand", made.model, *options, "--out", out, "--adapts", adapts)
        paths = [out / f"{name}.csv" for name in made.names[:2]]
        audiences.append([set(pl.read_csv(path)["user_id"]) for path in paths])
    whole, heads = audiences
    assert whole != heads
    assert heads[0] != heads[1]
    options = ("--data", made.data, "--size", 5, "--out", tmp_path / "out.csv")
    words = (f"--adapts: {made.campaigns[0]} is a campaign, which is customised",)
    refuses(capsys, main, "expand", made.campaigns[0], *options, "--adapts", "all", words=words)


def test_an_exported_campaign_scores_as_expand_does(made, tmp_path, capsys):
    campaign, out = made.campaigns[0], tmp_path / "exported"
    succeeds(main, "export", campaign, "--data", made.data, "--out", out)
    everyone = ("--size", 4000, "--include-seeds", "--out", tmp_path / "everyone.csv")
    succeeds(main, "expand", campaign, "--data", made.data, *everyone)
    users = pl.read_parquet(made.world / "users.parquet")
    columns = {name: users[name].to_list() for name in users.columns}
    scores = dict(zip(columns["user_id"], ExportedScorer(out)(columns).tolist(), strict=True))
    audience = pl.read_csv(tmp_path / "everyone.csv")
    expected = dict(zip(audience["user_id"], audience["score"], strict=True))
    assert scores == pytest.approx(expected, abs=1e-6)
    words = (f"--out: {made.model}: exists and is not an export, or has a damaged",)
    options = ("--data", made.data, "--out", made.model)
    refuses(capsys, main, "export", campaign, *options, words=words)


@pytest.mark.long
def test_workers_of_ray_find_the_audience_of_expand(made, tmp_path):
    """Two worker processes of a local cluster, and four files of users."""
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'metaheac-jax[ray]'")
    campaign, exported = made.campaigns[0], tmp_path / "exported"
    succeeds(main, "export", campaign, "--data", made.data, "--out", exported)
    users = pl.read_parquet(made.world / "users.parquet")
    (tmp_path / "users").mkdir()
    for number in range(4):
        part = users.gather_every(4, number)
        part.write_parquet(tmp_path / "users" / f"{number}.parquet")
    seeds = pl.read_csv(exported / "excluded.csv")["user_id"]
    left, count = tmp_path / "left.csv", len(users) - len(seeds)
    users.filter(~pl.col("user_id").is_in(seeds)).gather_every(7).select("user_id").write_csv(left)
    for size, further in ((count, False), (300, True)):
        words = [RAY_EXPAND, exported, tmp_path / "users", tmp_path / "found.parquet"]
        words += ["--size", size, *(("--leave-out", left) if further else ())]
        subprocess.run([sys.executable, *map(str, words)], check=True, timeout=500)
        options = ("--size", size, *(("--exclude", left) if further else ()))
        out = tmp_path / "audience.parquet"
        succeeds(main, "expand", campaign, "--data", made.data, *options, "--out", out)
        found, expected = pl.read_parquet(tmp_path / "found.parquet"), pl.read_parquet(out)
        assert found["rank"].to_list() == expected["rank"].to_list() == list(range(1, size + 1))
        near = {"rel": 1e-6, "abs": 1e-6}
        assert found["score"].to_list() == pytest.approx(expected["score"].to_list(), **near)
        scores = [dict(zip(f["user_id"], f["score"], strict=True)) for f in (found, expected)]
        both = scores[0].keys() & scores[1].keys()
        assert len(both) >= size - 2  # two who tie but for rounding may change places at the edge
        same = [{user: own[user] for user in both} for own in scores]
        assert same[0] == pytest.approx(same[1], **near)


def test_the_next_model_is_trained_on_the_campaigns_too(made, tmp_path, capsys):
    options = ("--with", *made.campaigns, "--method", "cosine")
    capsys.readouterr()
    succeeds(main, "fit", made.data, tmp_path / "next", *options)
    old = [key.decode() for key in open_dataset(made.data).campaign_ids]
    told = f"trained on {len(old)} campaigns of {open_dataset(made.data).name} and 2 of --with\n"
    assert told in capsys.readouterr().out
    general = load(tmp_path / "next")
    assert general.campaigns == tuple(sorted([*old, *made.names[:2]]))
    saved = [read_campaign(campaign) for campaign in made.campaigns]
    assert [own.digest for own in general.added] == [own.digest for own in saved]
    attributes = json.loads((made.world / "new" / made.names[0] / "attributes.json").read_text())
    assert general.added[0][::2] == (made.names[0], attributes)

    brief = made.world / "new" / made.names[0]
    options = ("--seeds", brief / "seeds.csv", "--attributes", brief / "attributes.json")
    capsys.readouterr()
    succeeds(main, "curve", tmp_path / "next", "--data", made.data, *options)
    note = f"has seen campaign {made.names[0]}, which has the same attributes; its results on "
    assert note in capsys.readouterr().out


@pytest.mark.slow
def test_a_model_that_goes_on_knows_the_campaigns_that_were_added_before(made, tmp_path):
    with_both = ("--method", "mlp-pretraining", "--epochs", 1, "--with", *made.campaigns)
    succeeds(main, "fit", made.data, tmp_path / "one", *with_both)
    go_on = ("--from", tmp_path / "one", "--epochs", 1, "--with", made.campaigns[1])
    succeeds(main, "fit", made.data, tmp_path / "two", *go_on)
    added = [campaign.name for campaign in load(tmp_path / "two").added]
    assert added == list(made.names[:2])


def test_users_who_opted_out_are_left_out_of_folders_that_are_trained_on(made, tmp_path, capsys):
    """A user of the folder's examples who is an example of no other campaign, and one who is."""
    data, folder = open_dataset(made.data), made.campaigns[0]
    users = data.find_users(read_campaign(folder).examples.user_ids)
    is_other = np.isin(users, data.stage1.user)
    left = users[[int(np.argmin(is_other)), int(np.argmax(is_other))]]
    ids = [plain_id(key) for key in data.user_ids[left]]
    (tmp_path / "out").write_text("\n".join(["user_id", *map(str, ids)]))
    options = ("--method", "cosine", "--with", folder, "--exclude", tmp_path / "out")
    capsys.readouterr()
    succeeds(main, "fit", made.data, tmp_path / "model", *options)
    notes = re.findall(r"note: (\d+) examples of users in --exclude", capsys.readouterr().out)
    assert notes == [str(np.isin(data.stage1.user, left).sum()), "2"]


def test_a_campaign_of_a_folder_is_never_held_out(made, tmp_path, capsys, monkeypatch):
    def fit(method, data, *, never_held_out, **options):
        raise InputError(f"kept: {[plain_id(key) for key in data.campaign_ids[never_held_out]]}")

    monkeypatch.setattr(Method, "fit", fit)
    options = ("--with", made.campaigns[0])
    words = (f"kept: {[made.names[0]]}",)
    refuses(capsys, main, "fit", made.data, tmp_path / "model", *options, words=words)


def test_status_shows_where_all_came_from(made, tmp_path, capsys):
    """Of audiences and exports too, and of what has changed since."""
    work = tmp_path / "work"
    for name in ("data", "model"):
        shutil.copytree(made.folder / name, work / name)
    shutil.copytree(made.campaigns[0], work / "tea")
    manifest = json.loads((work / "tea" / "campaign.json").read_text())
    assert manifest["model"] == "../../model"
    shutil.move(work / "tea", work / "campaigns" / "tea")
    tea, data = work / "campaigns" / "tea", ("--data", work / "data")
    succeeds(main, "expand", tea, *data, "--size", 5, "--out", work / "one.csv")
    succeeds(main, "expand", tea, *data, "--size", 6, "--out", work / "two.parquet")
    (work / "two.parquet").write_bytes((work / "one.csv").read_bytes())
    (work / "two.parquet").rename(work / "two.csv")
    succeeds(main, "export", tea, *data, "--out", work / "scorer")
    succeeds(main, "fit", work / "data", work / "next", "--method", "cosine", "--with", tea)
    list_of(made, work / "list", made.names[:1])
    options = ("--campaigns", work / "list", "--size", 5, "--out", work / "many")
    succeeds(main, "expand", work / "next", *data, *options)

    def made_from():
        table = items_table(find_items(work), work)
        place = table.header.index("made from")
        return {row[0]: row[place] for row in table.rows}

    expected = {
        "campaigns/tea": "model",
        "data": "",
        "model": "data",
        "next": "data, campaigns/tea",
        "one.csv": "campaigns/tea, model, data",
        "scorer": "campaigns/tea, model",
        f"many/{made.names[0]}.csv": "next, data",
        "two.csv": "",
    }
    assert made_from() == expected
    told = tmp_path / "told.csv"
    told.write_text("user_id,converted\nu1,1\n")
    succeeds(main, "feedback", tea, told)
    changed = {
        "next": "data, tea (changed or gone)",
        "one.csv": "tea (changed or gone), model, data",
        "scorer": "tea (changed or gone), model",
    }
    assert made_from() == expected | changed
    capsys.readouterr()
    succeeds(main, "status", work)
    printed = capsys.readouterr().out
    for word in (
        "data set",
        "4,000 users",
        "mlp-pretraining, k = 4",
        "campaigns/tea",
        "changed or gone",
    ):
        assert word in printed
    assert "damaged" not in printed


@pytest.mark.slow
def test_opt_outs_of_a_campaign_are_kept_in_it(made, tmp_path, capsys):
    brief, data = made.world / "new" / made.names[0], ("--data", made.data)
    options = ("--seeds", brief / "seeds.csv", "--attributes", brief / "attributes.json")
    tea, out, first = tmp_path / "tea", tmp_path / "out.csv", tmp_path / "first.csv"
    users = pl.read_parquet(made.world / "users.parquet")["user_id"].to_list()
    seeds = pl.read_csv(brief / "seeds.csv")["user_id"].to_list()
    users = sorted(set(users) - set(seeds))[:5]
    out.write_text("\n".join(["user_id", *users[:3], seeds[0]]))
    succeeds(main, "customise", made.model, *data, *options, "--out", tea, "--exclude", out)
    assert "(100%), 1 of these excluded\nnote: with fewer than 1,000" in capsys.readouterr().out
    succeeds(main, "expand", tea, *data, "--size", 50, "--out", first)
    assert not {*users[:3], *seeds} & set(pl.read_csv(first)["user_id"])
    out.write_text("\n".join(["user_id", *users[1:5]]))
    page = tmp_path / "page.html"
    options = ("--size", 4000, "--out", first, "--exclude", out, "--report", page)
    capsys.readouterr()
    succeeds(main, "expand", tea, *data, *options)
    note = (
        f"2 of the excluded users are non-seeds that {tea} learns from; if they opted out, metaheac"
    )
    assert f"note: {note} " in capsys.readouterr().out
    assert any(
        note in told for told in json.loads((tmp_path / "first.csv.json").read_text())["notes"]
    )
    assert not {*users[:5], *seeds} & set(pl.read_csv(first)["user_id"])
    # Those of the folder and of the option are not in the pool of the report's curve.
    pool = 4000 - len(seeds) - 5
    half = re.search(r">50%</th>\s<td[^>]*>([\d,]+)<", page.read_text())[1]
    assert abs(2 * int(half.replace(",", "")) - pool) <= 1
    out.write_text("\n".join(["user_id", *users[3:5], seeds[1]]))
    words = (f"--exclude: {tea} was customised to users who are to be left out; if they opted",)
    options = ("--size", 50, "--out", first, "--exclude", out)
    refuses(capsys, main, "expand", tea, *data, *options, words=words)
    every = ("--exclude", out, brief / "seeds.csv")
    words = (f"{tea}: all its seeds are to be left out; keep some, or make a new campaign",)
    refuses(capsys, main, "update", tea, *data, *every, words=words)
    succeeds(main, "update", tea, *data, "--exclude", out)
    assert f"{tea}: 7 users are excluded; nothing is learned" in capsys.readouterr().out
    out.write_text("\n".join(["user_id", *users[3:5], seeds[1]]))
    options = ("--size", 4000, "--include-seeds", "--out", first, "--exclude", out)
    succeeds(main, "expand", tea, *data, *options)
    assert "non-seeds that" not in capsys.readouterr().out
    assert len(pl.read_csv(first)) == 4000 - 7
    # They stay out beside users who were shown the campaign.
    told = tmp_path / "told.csv"
    new = sorted(set(pl.read_csv(first)["user_id"]) - set(seeds))[:2]
    told.write_text("user_id,converted\n" + "".join(f"{user},0\n" for user in new))
    succeeds(main, "feedback", tea, told)
    options = ("--size", 4000, "--include-seeds", "--out", first, "--exclude-shown")
    succeeds(main, "expand", tea, *data, *options)
    assert len(pl.read_csv(first)) == 4000 - 7 - 2
    words = ("feedback: give the files that say who was shown it and who converted",)
    refuses(capsys, main, "feedback", tea, words=words)


@pytest.mark.slow
def test_users_who_were_shown_a_campaign_are_left_out_of_its_audience_alone(
    made, tmp_path, capsys, monkeypatch
):
    """Many campaigns: those without a folder have no feedback. A report's pool has all users."""
    shutil.copytree(made.folder / "model", tmp_path / "model")
    shutil.copytree(made.folder / "campaigns", tmp_path / "campaigns")
    tea, other = (tmp_path / "campaigns" / name for name in made.names[:2])
    assert len(pl.read_csv(made.world / "new" / made.names[0] / "seeds.csv")) == 300
    data, told, all_but = ("--data", made.data), tmp_path / "told.csv", tmp_path / "rest.csv"
    out, page = tmp_path / "out.csv", tmp_path / "page.html"
    succeeds(main, "expand", tea, *data, "--size", 500, "--out", out)
    show(made.world, made.names[0], out, told)
    succeeds(main, "feedback", tea, told)
    succeeds(main, "update", tea, *data)
    pools, shown = [], []
    described = lambda *a, **o: shown.append(len(set(o["shown"]))) or describe_audience(*a, **o)  # noqa: E731
    monkeypatch.setattr("metaheac_jax.cli.expand.describe_audience", described)
    for more in ((), ("--exclude-shown",), ("--suppress", told)):
        options = ("--size", 50, "--out", out, "--report", page, "--probability", *more)
        succeeds(main, "expand", tea, *data, *options)
        facts = json.loads((tmp_path / "out.csv.json").read_text())
        assert facts["base_rate"] == 300 / 4000  # converts from feedback do not count
        pools.append(re.search(r">50%</th>\s<td[^>]*>([\d,]+)<", page.read_text())[1])
    assert len({*pools}) == 1
    assert shown == [0, 500, 500]
    most = 4000 - len(pl.read_csv(made.world / "new" / made.names[0] / "seeds.csv")) - 500
    all_of_it = ("--size", 4000, "--out", all_but, "--exclude-shown")
    succeeds(main, "expand", tea, *data, *all_of_it)
    assert len(pl.read_csv(all_but)) == most
    beyond = ("--from-percent", 100 * (most + 1) / 4000, "--to-percent", 100, "--out", out)
    words = (f"there are only {most:,} candidates",)
    refuses(capsys, main, "expand", tea, *data, *beyond, "--exclude-shown", words=words)
    brief, listed = made.world / "new" / made.names[2], tmp_path / "campaigns.jsonl"
    attributes = json.loads((brief / "attributes.json").read_text())
    entries = [
        {"name": "tea", "folder": str(tea)},
        {"name": "other", "folder": str(other)},
        {"name": "new", "seeds": str(brief / "seeds.csv"), "attributes": attributes},
    ]
    listed.write_text("\n".join(map(json.dumps, entries)))
    many = ("expand", tmp_path / "model", *data, "--campaigns", listed, "--size", 4000)
    succeeds(main, *many, "--out", tmp_path / "with")
    succeeds(main, *many, "--out", tmp_path / "without", "--exclude-shown")
    sizes = [
        [len(pl.read_csv(tmp_path / folder / f"{entry['name']}.csv")) for entry in entries]
        for folder in ("with", "without")
    ]
    shown = (pl.read_csv(told)["converted"] == 0).sum()
    assert [a - b for a, b in zip(*sizes, strict=True)] == [shown, 0, 0]
    # Users to leave out of one audience are left out besides those that its folder leaves out.
    bought = pl.read_csv(tmp_path / "without" / "tea.csv")[:3]
    bought.write_csv(tmp_path / "bought.csv")
    listed.write_text("\n".join(map(json.dumps, [{**entries[0], "suppress": "bought.csv"}])))
    succeeds(main, *many, "--out", tmp_path / "rest", "--exclude-shown")
    rest = pl.read_csv(tmp_path / "rest" / "tea.csv")["user_id"].to_list()
    assert rest == pl.read_csv(tmp_path / "without" / "tea.csv")["user_id"].to_list()[3:]
    listed.write_text(json.dumps(entries[2]))
    words = ("--exclude-shown: only for a campaign's folder, which has feedback",)
    refuses(capsys, main, *many, "--out", tmp_path / "x", "--exclude-shown", words=words)


def list_of(made, path, names):
    """Writes a list of campaigns."""
    entries = [
        {
            "name": name,
            "seeds": str(made.world / "new" / name / "seeds.csv"),
            "attributes": json.loads((made.world / "new" / name / "attributes.json").read_text()),
        }
        for name in names
    ]
    path.write_text("\n".join(map(json.dumps, entries)))


# What is refused --------------------------------------------------------------------------------


def test_bad_feedback_changes_nothing(made, tmp_path, capsys):
    campaign = made.campaigns[0]
    before = {p: p.read_bytes() for p in campaign.rglob("*") if p.is_file()}
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("user_id,converted\nu1,1\n")
    bad.write_text("user_id,converted\nu1,1\nu2,maybe\n")
    words = (f"{bad}: line 3: converted is 'maybe', expected 0 or 1",)
    refuses(capsys, main, "feedback", campaign, good, bad, words=words)
    assert {p: p.read_bytes() for p in campaign.rglob("*") if p.is_file()} == before


def test_a_day_without_feedback_is_no_error(made, tmp_path, capsys):
    campaign, told = made.campaigns[0], tmp_path / "told.csv"
    before = read_campaign(campaign).feedback
    told.write_text("user_id,converted\n")
    succeeds(main, "feedback", campaign, told)
    printed = capsys.readouterr().out
    assert f"{told}: has no records\n" in printed
    assert f"now feedback on {len(before):,} users (0 of them new)" in printed


def test_feedback_and_opt_outs_are_not_forgotten(made, tmp_path, capsys):
    brief, tea, told = made.world / "new" / made.names[0], tmp_path / "tea", tmp_path / "told.csv"
    options = ("--seeds", brief / "seeds.csv", "--attributes", brief / "attributes.json")
    again = ("customise", made.model, "--data", made.data, *options, "--out", tea)
    tea.mkdir()  # an empty folder is replaced
    succeeds(main, *again)
    succeeds(main, *again)
    told.write_text("user_id,converted\nu1,1\n")
    succeeds(main, "feedback", tea, told)
    capsys.readouterr()
    out = ("--size", 5, "--out", tmp_path / "out.csv")
    succeeds(main, "expand", tea, "--data", made.data, *out)
    words = f"note: feedback has changed since {tea} learned from it; metaheac update it first"
    assert words in capsys.readouterr().out
    words = (f"{tea}: its feedback has changed since its model learned from it; metaheac update",)
    for more in (("--probability",), ("--report", tmp_path / "page.html")):
        refuses(capsys, main, "expand", tea, "--data", made.data, *out, *more, words=words)
    told.write_text("user_id,converted\nu2,0\nu3,0\n")
    succeeds(main, "feedback", tea, told, "--replace")
    assert "now feedback on 2 users (2 of them new), 0 of them" in capsys.readouterr().out
    succeeds(main, "feedback", tea, "--replace")
    assert "now feedback on 0 users (0 of them new), 0 of them" in capsys.readouterr().out
    refuses(capsys, main, "expand", tea, "--data", made.data, *out, "--probability", words=words)
    succeeds(main, "feedback", tea, told)
    words = (f"--out: {tea}: has feedback on 2 users, and leaves out 0", "or give --overwrite")
    refuses(capsys, main, *again, words=words)
    (tea / "feedback.parquet").write_bytes(b"cut")
    refuses(capsys, main, *again, words=("feedback.parquet", "or --overwrite to replace the fo"))
    users = pl.read_parquet(made.world / "users.parquet")["user_id"].to_list()
    seeds = pl.read_csv(brief / "seeds.csv")["user_id"].to_list()
    told.write_text("\n".join(["user_id", *sorted(set(users) - set(seeds))[:2]]))
    succeeds(main, *again, "--exclude", told, "--overwrite")
    assert not len(read_campaign(tea).feedback)
    refuses(capsys, main, *again, words=("and leaves out 2 whom --exclude does not name",))
    succeeds(main, *again, "--exclude", told)


def test_a_method_without_a_network_is_refused_before_the_work(made, tmp_path, capsys):
    brief, model = made.world / "new" / made.names[0], tmp_path / "cosine"
    succeeds(main, "fit", made.data, model, "--method", "cosine")
    options = ("--seeds", brief / "seeds.csv", "--attributes", brief / "attributes.json")
    out = ("--data", made.data, "--out", tmp_path / "tea")
    words = ("adapts no network, so there is nothing to keep; metaheac expand makes audiences",)
    refuses(capsys, main, "customise", model, *options, *out, words=words)
    assert contents(tmp_path) == {"cosine"}


def test_too_few_seeds_are_refused_of_a_campaign_and_of_its_folder(made, tmp_path, capsys):
    brief, campaign = made.world / "new" / made.names[0], made.campaigns[0]
    options = ("--seeds", brief / "seeds.csv", "--attributes", brief / "attributes.json")
    least = ("--data", made.data, "--least-seeds", 9999, "--out", tmp_path / "out.csv")
    words = ("seeds are users of the data, fewer than --least-seeds 9999",)
    refuses(capsys, main, "customise", made.model, *options, *least, words=words)
    refuses(capsys, main, "expand", campaign, "--size", 5, *least, words=(f"{campaign}: ", *words))
    assert not contents(tmp_path)


def test_few_seeds_that_customise_accepts_will_do_to_expand(made, tmp_path, capsys):
    brief = made.world / "new" / made.names[0]
    seeds = (brief / "seeds.csv").read_text().splitlines()[:51]
    (tmp_path / "seeds.csv").write_text("\n".join(seeds))
    options = ("--seeds", tmp_path / "seeds.csv", "--attributes", brief / "attributes.json")
    options += ("--data", made.data, "--least-seeds", 50, "--out", tmp_path / "tea")
    succeeds(main, "customise", made.model, *options)
    last = capsys.readouterr().out.splitlines()[-1].removeprefix("next: metaheac ")
    words = last.replace("--size N --out audience.csv", f"--size 5 --out {tmp_path}/a.csv").split()
    succeeds(main, *words)


def test_folders_that_are_no_campaigns_are_named(made, tmp_path, capsys):
    told = tmp_path / "told.csv"
    told.write_text("user_id,converted\nu1,1\n")
    words = (f"{made.model}: has no campaign.json; give the folder that `metaheac customise`",)
    refuses(capsys, main, "feedback", made.model, told, words=words)
    refuses(capsys, main, "update", made.model, "--data", made.data, words=words)
    brief = made.world / "new" / made.names[0]
    options = ("--seeds", brief / "seeds.csv", "--attributes", brief / "attributes.json")
    words = (f"--out: {made.model}: exists and is not a campaign",)
    out = ("--data", made.data, "--out", made.model)
    refuses(capsys, main, "customise", made.model, *options, *out, words=words)


def test_a_campaign_whose_general_model_has_moved_needs_an_update(tea, tmp_path, capsys):
    new, data = tea.model.with_name("june"), ("--data", tea.data)
    expand = ("--size", 5, "--out", tmp_path / "out.csv")
    tea.model.rename(new)
    words = (
        f"campaign tea: its general model is not in {tea.model}; move it back, or use `metaheac "
        f"update {tea.folder} --data DATA --model FOLDER`",
    )
    for name, more in (("expand", expand), ("export", ("--out", tmp_path / "out")), ("update", ())):
        refuses(capsys, main, name, tea.folder, *data, *more, words=words)
    succeeds(main, "update", tea.folder, *data, "--model", new)
    succeeds(main, "expand", tea.folder, *data, *expand)


def test_a_campaign_has_its_seeds_and_takes_no_others(made, tmp_path, capsys):
    seeds = made.world / "new" / made.names[0] / "seeds.csv"
    options = ("--data", made.data, "--size", 5, "--out", tmp_path / "out.csv", "--seeds", seeds)
    words = (f"{made.campaigns[0]}: is a campaign, which has its seeds and attributes",)
    refuses(capsys, main, "expand", made.campaigns[0], *options, words=words)
    assert contents(tmp_path) == set()
