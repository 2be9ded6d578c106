"""Ids that opt-outs, campaigns and data have in different forms, by the commands."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import contents, exit_code, full_disk, refuses, succeeds

from metaheac_jax.audience.campaign_folder import (
    load_customised,
    read_campaign,
    update_customised,
    write_campaign,
)
from metaheac_jax.cli.campaigns import KEPT_GENERAL
from metaheac_jax.cli.main import main
from metaheac_jax.data.examples import group_by_campaign
from metaheac_jax.data.storage import open_dataset, write_dataset
from metaheac_jax.errors import Busy, InputError
from metaheac_jax.files import locked
from metaheac_jax.model import Customised, load, save
from metaheac_jax.progress import silent
from metaheac_jax.training.checkpoint import array_digest


def opt_outs(path, user_ids):
    """Writes ids of whom to leave out."""
    path.write_text("\n".join(["user_id", *map(str, user_ids)]))
    return path


def ranked(path):
    rows = csv.DictReader(path.read_text().splitlines())
    return [(row["user_id"], row["score"]) for row in rows]


def users_of(path):
    return {row["user_id"] for row in csv.DictReader(path.read_text().splitlines())}


def test_an_update_leaves_opt_outs_out_when_ids_have_become_text(tea, tmp_path, capsys):
    """Two seeds and a non-seed; a folder of whole numbers, and data of text."""
    left = tea.user_ids[[*tea.seeds[:2], tea.non_seeds[0]]]
    options = ("--data", tea.later, "--exclude", opt_outs(tmp_path / "optouts.csv", left))
    succeeds(main, "update", tea.folder, *options)
    printed = capsys.readouterr().out
    assert "3 users are excluded; nothing is learned from them" in printed
    assert "note" not in printed
    saved, gone = read_campaign(tea.folder), {str(user).encode() for user in left}
    assert set(saved.excluded.tolist()) == gone
    assert not set(saved.examples.user_ids.tolist()) & gone
    assert (saved.examples.labels == 1).sum() == 118

    out = tmp_path / "audience.csv"
    options = ("--data", tea.later, "--size", 400, "--include-seeds", "--out", out)
    succeeds(main, "expand", tea.folder, *options)
    expected = {*map(str, tea.user_ids[:-1]), "A17"} - set(map(str, left))
    assert users_of(out) == expected
    # The data of the next day has whole numbers again.
    succeeds(main, "expand", tea.folder, "--data", tea.data, *options[2:])
    assert users_of(out) == set(map(str, tea.user_ids)) - set(map(str, left))


def test_many_campaigns_are_updated_as_one_by_one(tea, tmp_path, capsys, monkeypatch):
    """An error in one does not stop the others, whatever it is; each has its own general model."""
    left = opt_outs(tmp_path / "optouts.csv", tea.user_ids[[*tea.seeds[:2], tea.non_seeds[0]]])
    update = ("update", "--data", tea.data, "--exclude", left)
    names = ("alone", "golf", "july", "bad", "foreign", "full", "busy")
    copies = [Path(shutil.copytree(tea.folder, tmp_path / name)) for name in names]
    alone, golf, july, bad, foreign, full, busy = copies
    general = load(tea.model, optimizer=True)
    state = {**general.state, "table": general.state["table"] + 1}
    other = save(replace(general, state=state), tmp_path / "other")
    update_customised(july, other, open_dataset(tea.data))
    (bad / "campaign.json").write_text("{}")
    (foreign / "notes.txt").write_text("mine")
    for own in (alone, july):
        succeeds(main, "update", own, *update[1:])
    wanted = {own.name: read_campaign(own).adapted for own in (alone, july)}
    shutil.rmtree(july)
    shutil.copytree(tea.folder, july)
    update_customised(july, other, open_dataset(tea.data))

    def write(saved, directory, progress):
        if Path(directory).name == "full":
            full_disk()
        write_campaign(saved, directory, progress)

    def lock(folder):
        if folder == busy:
            raise Busy(f"{folder}: another process is writing it; try again")
        return locked(folder)

    monkeypatch.setattr("metaheac_jax.audience.campaign_folder.write_campaign", write)
    monkeypatch.setattr("metaheac_jax.cli.update.locked", lock)
    capsys.readouterr()
    several = (golf, july, bad, foreign, full, busy, tea.folder, tmp_path / "none")
    assert exit_code(main, "update", *several, *update[1:]) == 2
    printed, error = capsys.readouterr()
    for folder, own in ((golf, "alone"), (july, "july"), (tea.folder, "alone")):
        assert f"{folder}: customised again, with feedback on 0 users" in printed
        jax.tree.map(np.testing.assert_array_equal, read_campaign(folder).adapted, wanted[own])
        assert len(read_campaign(folder).excluded) == 3
    assert error.startswith("error: 5 errors: ")
    for folder in (bad, foreign, full, busy, tmp_path / "none"):
        assert str(folder) in error
    monkeypatch.chdir(tmp_path)
    shutil.copytree(golf, "a")  # a name that is in every message
    shutil.move(tea.model, tmp_path / "gone")
    refuses(capsys, main, "update", "a", "--data", tea.data, words=("error: a: campaign ",))
    shutil.move(tmp_path / "gone", tea.model)
    assert "No space left on device" in error
    assert error.endswith("; 3 of 8 campaigns are up to date\n")
    assert error.count("\n") == 1
    words = (f"{busy}: another process is writing it; try again; 1 of 2 campaigns are up to date",)
    refuses(capsys, main, "update", busy, golf, *update[1:], words=words, code=75)
    monkeypatch.undo()
    succeeds(main, "update", golf, busy, *update[1:])
    printed = capsys.readouterr().out
    assert printed.count("nothing to do") == 1
    assert f"{busy}: customised again" in printed
    words = (f"CAMPAIGN: {tea.folder} is given twice; give it once",)
    refuses(capsys, main, "update", tea.folder, golf, tea.folder / ".", *update[1:], words=words)
    refuses(capsys, main, *update, words=("update: give the folder of a campaign, or several",))


def test_an_update_says_which_values_training_has_not_seen(tea, tmp_path, capsys, monkeypatch):
    notes = lambda model: [f"unseen by {model.general.method}"]  # noqa: E731
    monkeypatch.setattr("metaheac_jax.cli.update.unseen_notes", notes)
    left = opt_outs(tmp_path / "optouts.csv", tea.user_ids[tea.non_seeds[:1]])
    succeeds(main, "update", tea.folder, "--data", tea.data, "--exclude", left)
    assert f"{tea.folder}: unseen by " in capsys.readouterr().out


@pytest.mark.parametrize("is_general", [False, True])
def test_an_update_says_whether_the_general_model_is_kept(
    tea, tmp_path, capsys, monkeypatch, is_general
):
    monkeypatch.setattr(Customised, "is_general", is_general)
    left = opt_outs(tmp_path / "optouts.csv", tea.user_ids[tea.non_seeds[:1]])
    succeeds(main, "update", tea.folder, "--data", tea.data, "--exclude", left)
    printed = capsys.readouterr().out
    assert f"{tea.folder}: customised again" in printed
    assert (f"{tea.folder}: {KEPT_GENERAL}\n" in printed) == is_general


def test_expand_leaves_opt_outs_out_when_ids_have_become_text(tea, tmp_path, capsys):
    path, out = tmp_path / "optouts.csv", tmp_path / "audience.csv"
    left = tea.user_ids[tea.non_seeds[:3]]
    options = ("--data", tea.later, "--size", 400, "--out", out, "--exclude", path)
    opt_outs(path, left)
    succeeds(main, "expand", tea.folder, *options)
    assert "note: 3 of the excluded users are non-seeds that" in capsys.readouterr().out
    assert users_of(out) == {*map(str, tea.user_ids[120:-1]), "A17"} - set(map(str, left))
    opt_outs(path, tea.user_ids[[*tea.non_seeds[:2], tea.seeds[0]]])
    words = (f"--exclude: {tea.folder} was customised to users who are to be left out; if they",)
    refuses(capsys, main, "expand", tea.folder, *options, words=words)
    opt_outs(path, [*tea.user_ids[120:-1], "A17"])
    words = ("audience: has no users, since all 400 users of the data are seeds or left out; us",)
    refuses(capsys, main, "expand", tea.folder, *options, words=words)


def test_an_update_takes_a_wrong_exclusion_back(tea, tmp_path, capsys):
    """In the two forms of the ids; the model is then as it was before."""
    update = ("update", tea.folder, "--data", tea.data)
    succeeds(main, *update)
    before = read_campaign(tea.folder)
    ids = tea.user_ids[[*tea.seeds[:2], tea.non_seeds[0]]]
    wrong = opt_outs(tmp_path / "wrong.csv", [*ids, 10**9])
    known = opt_outs(tmp_path / "known.csv", ids[:1])
    succeeds(main, *update, "--exclude", wrong)
    left = read_campaign(tea.folder)
    assert not np.array_equal(left.adapted.values, before.adapted.values)
    # Who is in both stays out; a file may have only a header.
    nobody = opt_outs(tmp_path / "nobody.csv", [])
    succeeds(main, *update, "--exclude", wrong, "--readmit", known, nobody)
    printed = capsys.readouterr().out
    assert "note: 1 users of --readmit are in --exclude, too, and stay out\n" in printed
    assert f"note: {nobody}: has no users to readmit\n" in printed
    assert "who is left out are as before; nothing to do" in printed
    assert read_campaign(tea.folder).digest == left.digest
    # A better list in place of the wrong one, with other ids.
    words = ("update", tea.folder, "--data", tea.later, "--readmit", wrong, "--exclude")
    succeeds(main, *words, opt_outs(tmp_path / "right.csv", [*ids[1:], 10**9]))
    printed = capsys.readouterr().out
    assert f"{tea.folder}: 4 of 4 users of --readmit were left out\n" in printed
    assert f"{tea.folder}: 3 users are excluded; nothing is learned from them" in printed
    succeeds(main, *update, "--readmit", wrong)
    assert f"{tea.folder}: 3 of 4 users of --readmit were left out\n" in capsys.readouterr().out
    after = read_campaign(tea.folder)
    assert not len(after.excluded)
    jax.tree.map(np.testing.assert_array_equal, after.adapted, before.adapted)
    succeeds(main, *update, "--readmit", wrong)
    printed = capsys.readouterr().out
    assert f"{tea.folder}: 0 of 4 users of --readmit were left out\n" in printed
    assert "who is left out are as before; nothing to do" in printed


def users_alone(data, users, folder):
    """Writes data with these users and no campaigns, as of a day's sign-ups."""
    own = {"user_ids": data.user_ids[users], "user_rows": data.user_rows[users]}
    none = group_by_campaign(*np.empty((3, 0), int), num_campaigns=0)
    campaigns = {"campaign_ids": data.campaign_ids[:0], "campaign_rows": data.campaign_rows[:0]}
    write_dataset(replace(data, **own, **campaigns, stage1=none, stage2=none), folder)
    return {str(user) for user in own["user_ids"]}


def test_an_update_keeps_the_model_if_the_data_has_few_of_its_seeds(tea, tmp_path, capsys):
    """It has learned from 120, so by default 60 must be users of the data, which has 59."""
    few = ("--data", tmp_path / "few")
    data, left = open_dataset(tea.data), opt_outs(tmp_path / "optouts.csv", [10**9])
    rest = np.setdiff1d(np.arange(400), tea.seeds)
    users_alone(data, np.union1d(tea.seeds[:59], rest), tmp_path / "few")
    update = ("update", tea.folder, *few, "--exclude", left)
    before = read_campaign(tea.folder).digest
    words = (
        f"{tea.folder}: 59 of its 120 seeds and converts are users of {tmp_path / 'few'}, "
        "fewer than --least-seeds 60; use data with more of the campaign's users, or give",
    )
    refuses(capsys, main, *update, words=words)
    assert read_campaign(tea.folder).digest == before
    # A folder of an earlier version does not have this number.
    write_campaign(replace(read_campaign(tea.folder), num_learned=None), tea.folder, silent)
    refuses(capsys, main, *update, words=words)
    succeeds(main, *update, "--least-seeds", 59)
    assert "59 of its 120 seeds and converts are users of" in capsys.readouterr().out
    succeeds(main, *update, "--seed", 1)  # half of the 59 it has learned from
    words = ("fewer than --least-seeds 60",)
    refuses(capsys, main, *update, "--seed", 2, "--least-seeds", 60, words=words)


def test_opt_outs_of_most_seeds_are_no_missing_users(tea, tmp_path, capsys):
    left = opt_outs(tmp_path / "optouts.csv", tea.user_ids[tea.seeds[:100]])
    succeeds(main, "update", tea.folder, "--data", tea.data, "--exclude", left)
    assert len(read_campaign(tea.folder).excluded) == 100


def test_new_users_alone_are_scored_and_said_to_have_no_seed(tea, tmp_path, capsys):
    everyone, new, out = tmp_path / "all.csv", tmp_path / "new", tmp_path / "new.csv"
    data = open_dataset(tea.data)
    ids = users_alone(data, np.setdiff1d(np.arange(400), [*tea.seeds, *tea.non_seeds]), new)
    expand = ("expand", tea.folder, "--size", 400, "--data")
    succeeds(main, *expand, tea.data, "--out", everyone)
    assert "none of its" not in capsys.readouterr().out
    succeeds(main, *expand, new, "--out", out)
    printed = capsys.readouterr().out
    assert "0 of them users of the data (0%)" in printed
    assert f"note: none of its 120 seeds is a user of {new}; if one should be, check" in printed
    assert ranked(out) == [row for row in ranked(everyone) if row[0] in ids]
    assert users_of(out) == ids

    refused = f"{tea.folder}: none of its seeds is a user of {new}, and some have to be held out"
    refuses(capsys, main, *expand, new, "--out", out, "--probability", words=(refused,))
    refused = f"{tea.folder}: 0 of 120 seeds are users of the data, fewer than --least-seeds 1"
    refuses(capsys, main, *expand, new, "--out", out, "--least-seeds", 1, words=(refused,))


def test_notes_are_on_the_examples_learned_from_not_on_those_of_other_data(tea, tmp_path, capsys):
    """The campaign has as many non-seeds as seeds, but the other data has one seed alone."""
    others = np.setdiff1d(np.arange(400), [*tea.seeds[1:], *tea.non_seeds])
    users_alone(open_dataset(tea.data), others, tmp_path / "new")
    options = ("--size", 400, "--out", tmp_path / "audience.csv")
    succeeds(main, "expand", tea.folder, "--data", tmp_path / "new", *options)
    printed = capsys.readouterr().out
    assert "1 of them users of the data (0%)" in printed
    assert "other users to tell" not in printed
    assert "none of its" not in printed


@pytest.fixture
def customise(tea, tmp_path):
    """Words that customise the campaign again."""
    (tmp_path / "seeds").write_text("\n".join(map(str, tea.user_ids[:120])))
    (tmp_path / "attributes").write_text(json.dumps({"advertiser": 2, "category": 1}))
    options = ("--seeds", tmp_path / "seeds", "--attributes", tmp_path / "attributes")
    return ("customise", tea.model, *options, "--out", tea.folder)


def test_a_seed_whom_the_data_lacks_may_opt_out_before_and_after(tea, customise, tmp_path, capsys):
    """Nothing was learned from either."""
    seeds, before, after = tmp_path / "seeds", tmp_path / "before", tmp_path / "after"
    opt_outs(seeds, [*tea.user_ids[:120], "z1", "z2"])
    opt_outs(before, [tea.user_ids[3], "z1"])
    succeeds(main, *customise, "--data", tea.later, "--exclude", before)
    line = "seeds: 122 given, 122 distinct, 120 of them users of the data (98%), 1 of these excl"
    assert line in capsys.readouterr().out
    record = read_campaign(tea.folder).record
    expected = {*tea.user_ids[:120].astype("S").tolist(), b"z2"} - {str(tea.user_ids[3]).encode()}
    assert set(record.user_ids[record.labels == 1].tolist()) == expected
    opt_outs(after, [tea.user_ids[130], "z2"])
    options = ("--size", 5, "--out", tmp_path / "audience.csv", "--exclude", after)
    succeeds(main, "expand", tea.folder, "--data", tea.later, *options)
    printed = capsys.readouterr().out
    assert "note: 1 of the excluded users are non-seeds that" in printed
    gone = f"note: 1 of the excluded users are seeds or converts of {tea.folder} who are not in the"
    assert gone in printed


def test_feedback_with_text_as_ids_says_what_to_do(tea, tmp_path, capsys):
    """The campaign has whole numbers until an update with data of text."""
    told = tmp_path / "told.csv"
    told.write_text("user_id,converted\n7,1\nA17,0\n")
    words = (
        f"{told}: line 3: user_id is 'A17', expected a whole number",
        "update",
        str(tea.folder),
    )
    refuses(capsys, main, "feedback", tea.folder, told, words=words)
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("user_id,converted\n7,yes\n")
    assert exit_code(main, "feedback", tea.folder, wrong) == 2
    assert "update" not in capsys.readouterr().err
    succeeds(main, "update", tea.folder, "--data", tea.later)
    succeeds(main, "feedback", tea.folder, told)
    # Data of whole numbers does not suit the folder any more, which a list is told once.
    (tmp_path / "list").write_text(json.dumps({"name": "old", "folder": "tea"}))
    options = ("--data", tea.data, "--campaigns", tmp_path / "list", "--size", 5)
    words = ("error: campaign old: campaign tea: ", "has no text as ids; use data that has")
    refuses(capsys, main, "expand", tea.model, *options, "--out", tmp_path / "out", words=words)


def test_an_update_says_how_many_of_those_who_did_not_convert_count(tea, tmp_path, capsys):
    told, users = tmp_path / "told.csv", np.setdiff1d(np.arange(120, 400), tea.non_seeds)[:100]
    update = ("update", tea.folder, "--data", tea.data)
    for converts, counts in ((99, False), (1, True)):
        rows = [f"{tea.user_ids[user]},{int(n < converts)}" for n, user in enumerate(users)]
        told.write_text("\n".join(["user_id,converted", *rows]))
        succeeds(main, "feedback", tea.folder, told, "--replace")
        capsys.readouterr()
        succeeds(main, *update)
        line = re.search(
            r"(\d+) of the 99 users who did not convert count as non-seeds, since few",
            " ".join(capsys.readouterr().out.split()),
        )
        assert (line is not None) == counts
    examples = read_campaign(tea.folder).examples
    kept = np.isin(tea.user_ids[users], examples.user_ids[examples.labels == 0])
    assert int(line[1]) == kept.sum() < 20


def test_converts_who_opt_out_are_left_out_with_all_who_were_shown(tea, tmp_path, capsys):
    told, out = tmp_path / "told.csv", opt_outs(tmp_path / "optouts.csv", tea.user_ids[[390]])
    told.write_text(f"user_id,converted\n{tea.user_ids[390]},1\n{tea.user_ids[391]},0\n")
    succeeds(main, "feedback", tea.folder, told)
    succeeds(main, "update", tea.folder, "--data", tea.data)
    capsys.readouterr()
    expand = ("expand", tea.folder, "--data", tea.data, "--size", 5, "--exclude", out)
    expand = (*expand, "--out", tmp_path / "audience.csv")
    refuses(capsys, main, *expand, words=("--exclude-shown)",))
    succeeds(main, *expand, "--exclude-shown")
    printed = capsys.readouterr().out
    assert "120 of them users of the data (100%); 1 more from feedback\n" in printed
    words = "of the excluded users are seeds or converts that"
    assert f"note: 1 {words} {tea.folder} learns from; if they opted out, met" in printed
    assert "non-seeds that" not in printed
    assert "who are not in the data" not in printed


def test_an_opt_out_who_has_left_is_no_longer_learned_from(tea, customise, tmp_path, capsys):
    """Alone in the file of the day."""
    seeds, path = tmp_path / "seeds", tmp_path / "optouts.csv"
    opt_outs(seeds, [*tea.user_ids[:120], "z1"])
    succeeds(main, *customise, "--data", tea.later)
    words = ("update", tea.folder, "--data", tea.later)
    opt_outs(path, tea.user_ids[[300]])
    succeeds(main, *words, "--exclude", path)
    printed = capsys.readouterr().out
    assert f"{tea.folder}: 120 of its 121 seeds and converts are users of the data\n" in printed
    succeeds(main, *words, "--exclude", opt_outs(path, ["z1"]))
    printed = capsys.readouterr().out
    assert f"note: {path}: 0 of 1 ids to leave out are users of the data; check that" in printed
    assert "seeds and converts are users of the data" not in printed
    assert b"z1" not in read_campaign(tea.folder).examples.user_ids.tolist()


def test_opt_outs_that_became_text_are_not_taken_for_forgotten(tea, customise, tmp_path, capsys):
    path = opt_outs(tmp_path / "optouts.csv", tea.user_ids[130:133])
    succeeds(main, "update", tea.folder, "--data", tea.data, "--exclude", path)
    again = (*customise, "--data", tea.later, "--exclude", path)
    succeeds(main, *again)
    opt_outs(path, tea.user_ids[131:133])
    refuses(capsys, main, *again, words=("and leaves out 1 whom --exclude does not name",))


def test_how_many_opt_outs_are_users_of_the_data_is_told(tea, customise, tmp_path, capsys):
    """Nothing is said where all are users."""
    path = tmp_path / "optouts.csv"
    expand = ("expand", tea.folder, "--size", 5, "--out", tmp_path / "audience.csv")
    left = [str(user) for user in tea.user_ids[tea.non_seeds[:3]]]
    for command in ((*customise, "--overwrite"), expand, ("update", tea.folder)):
        words = (*command, "--data", tea.later, "--exclude", path)
        opt_outs(path, [*left[:2], "", "nobody", "  "])
        succeeds(main, *words)
        told = f"note: {path}: 2 of 3 ids to leave out are users of the data\n"
        assert told in capsys.readouterr().out
        opt_outs(path, left)
        succeeds(main, *words)
        assert "ids to leave out" not in capsys.readouterr().out


def test_campaigns_whose_ids_became_text_are_not_judged_as_new(tea, tmp_path):
    found = []
    for data in (tea.data, tea.later):
        out = tmp_path / "figures.json"
        succeeds(main, "evaluate", tea.model, "--data", data, "--out", out)
        found.append(json.loads(out.read_text())["campaigns"])
    assert [entry["campaign"] for entry in found[0]] == [130]
    assert [entry["campaign"] for entry in found[1]] == ["130"]


def test_an_export_tells_what_it_does_not_know(tea, tmp_path, capsys):
    """Feedback that its model has not learned from, and whom `expand` leaves out."""
    out, path = tmp_path / "exported", tmp_path / "told.csv"
    export = ("export", tea.folder, "--data", tea.later, "--out", out)
    succeeds(main, *export)
    assert capsys.readouterr().out.count("note") == 1
    files = {"scorer.json", "scorer.stablehlo", "weights.npz", "values.npz", "excluded.csv"}
    assert contents(out) == files
    assert users_of(out / "excluded.csv") == set(map(str, tea.user_ids[tea.seeds]))
    left = tea.user_ids[[*tea.seeds[:2], tea.non_seeds[0]]].tolist()
    options = ("--data", tea.data, "--exclude", opt_outs(path, left))
    succeeds(main, "update", tea.folder, *options)
    path.write_text(f"user_id,converted\n{tea.user_ids[130]},1\n")
    succeeds(main, "feedback", tea.folder, path)
    capsys.readouterr()
    succeeds(main, *export)
    printed = capsys.readouterr().out
    assert (
        f"note: feedback has changed since {tea.folder} learned from it; metaheac update" in printed
    )
    assert (
        "note: the program also scores the campaign's 119 seeds and 3 excluded users; leave out "
        f"the ids in {out / 'excluded.csv'}\n"
    ) in printed
    left_out, audience = users_of(out / "excluded.csv"), tmp_path / "audience.csv"
    assert left_out == set(map(str, [*tea.user_ids[tea.seeds], tea.user_ids[130], *left]))
    options = ("--data", tea.later, "--size", 400, "--out", audience)
    succeeds(main, "expand", tea.folder, *options)
    assert users_of(audience) == {*map(str, tea.user_ids[:-1]), "A17"} - left_out


def test_processes_compare_campaigns_and_opt_outs(tea, tmp_path, capsys, monkeypatch):
    """Otherwise, a folder that is replaced meanwhile would mix two models in one audience."""
    compared = []
    for name in ("expand", "expand_inputs"):
        check = f"metaheac_jax.cli.{name}.check_same"
        monkeypatch.setattr(check, lambda *own: compared.append(own))
    words = ("expand", tea.folder, "--data", tea.data, "--size", 5, "--mesh", "campaign=1")
    for user in tea.non_seeds[:2]:
        out = opt_outs(tmp_path / "optouts.csv", tea.user_ids[[user]])
        succeeds(main, *words, "--exclude", out, "--out", tmp_path / "audience.csv")
    (_, before), (what, first), (_, after), (_, second) = compared
    options = {"size": 5, "seed": 0, "include_seeds": False}
    assert options.items() <= before[0].items()
    assert before == after == (*before[:3], [read_campaign(tea.folder).digest])
    assert what == "campaigns and excluded users"
    assert first[0] != second[0]
    campaign = load_customised(tea.folder, load(tea.model), open_dataset(tea.data)).campaign
    parts = campaign.users, campaign.labels, campaign.rows
    nobody = array_digest(tea.user_ids[:0])  # of --suppress
    assert first[1:] == second[1:] == [nobody, *map(array_digest, parts)]

    def differ(what, value):
        assert (what, value) == ("campaigns of --with", before[3])
        raise InputError("they differ")

    monkeypatch.setattr("metaheac_jax.cli.fit.check_same", differ)
    tea.folder.rename(tmp_path / "912")  # the campaign ids of the data are whole numbers
    words = ("fit", tea.data, tmp_path / "next", "--mesh", "row=1", "--with", tmp_path / "912")
    words = (*words, "--set", "campaigns_per_step=2")
    refuses(capsys, main, *words, words=("they differ",))


def test_text_ids_are_compared_left_out_and_reported(tea, tmp_path, capsys):
    """Ids of different lengths; they are bytes until they are written."""
    expand = ("expand", tea.folder, "--data", tea.later, "--size", 60)
    first, second, page = (tmp_path / name for name in ("first.csv", "second.csv", "page.html"))
    succeeds(main, *expand, "--out", first)
    earlier = [user for user, _ in ranked(first)]
    assert len({*map(len, earlier)}) > 1
    left = opt_outs(tmp_path / "out.csv", earlier[:2])
    more = ("--suppress", left, "--previous", first, "--report", page)
    capsys.readouterr()
    succeeds(main, *expand, "--out", second, *more)
    assert f"{first}: 58 users kept, 2 new, 2 gone\n" in capsys.readouterr().out
    assert [user for user, _ in ranked(second)][:58] == earlier[2:]
    assert re.search(r"first\.csv</th>\s<td.*>60</td>\s<td.*>58</td>", page.read_text())
