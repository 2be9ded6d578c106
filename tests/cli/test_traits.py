"""`metaheac traits`: values, sensitive values and what the model uses."""

import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from commands import contents, refuses, succeeds, with_options
from toy import SCHEMA

from metaheac_jax.audience.held_out_seeds import hold_out_seeds
from metaheac_jax.audience.importance import field_importance
from metaheac_jax.audience.traits import audience_traits, sensitive_shares
from metaheac_jax.cli.main import main
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.methods import method_of
from metaheac_jax.model import AddedCampaign, load, save

FIELDS = {field.name for field in SCHEMA.user}


@pytest.fixture
def words(toy_campaign):
    return [
        *("traits", toy_campaign.first, "--data", toy_campaign.data),
        *("--seeds", toy_campaign.seeds, "--min-cell", 20),
    ]


def test_values_are_the_librarys(toy_campaign, words, tmp_path, capsys):
    succeeds(main, *words, "--out", tmp_path / "traits.csv")
    printed = capsys.readouterr().out
    data = toy_campaign.dataset
    ids, seeds = data.user_ids[120:260], data.user_ids[:120]
    traits = audience_traits(data, ids, seeds, exclude=seeds, min_cell=20)
    shares = sensitive_shares(data, ids, exclude=seeds, min_cell=20)
    header, *rows = csv.reader((tmp_path / "traits.csv").read_text().splitlines())
    names = ["field", "value", "sensitive", "audience", "seeds", "pool", "lift", "impact"]
    assert header == names

    def text(*cells):
        return ["" if cell is None else str(cell) for cell in cells]

    expected = [
        text(t.field, t.value, "", t.audience, t.seeds, t.pool, t.lift, None) for t in traits
    ]
    expected += [
        text("sex", s.value, "ok", s.audience, None, s.pool, s.ratio, s.impact) for s in shares
    ]
    assert rows == expected
    assert "140 users in the audience, 280 in the pool" in printed
    assert "Sensitive fields, which the model does not see" in printed
    assert " [men] " in printed  # text of the data is no markup of the screen's
    assert "Drop of the AUC" not in printed


def test_campaign_values_that_training_has_not_seen_are_told(toy_campaign, words, tmp_path, capsys):
    (tmp_path / "new.json").write_text('{"advertiser": 2, "category": 99}')
    succeeds(main, *words, "--model", toy_campaign.model, "--attributes", tmp_path / "new.json")
    told = "note: training has not seen these values of the campaign: category 99\n"
    assert told in capsys.readouterr().out


def test_values_that_an_audience_has_too_rarely_or_too_often_are_flagged(
    toy_campaign, words, tmp_path
):
    """An audience without women: their ratio is only known to be low, so it is not written."""
    men = toy_campaign.dataset.user_ids[[user for user in range(120, 260) if user % 3]]
    words[1], out = tmp_path / "men.csv", tmp_path / "traits.csv"
    words[1].write_text("\n".join(["user_id", *map(str, men)]))
    succeeds(main, *words, "--out", out)
    rows = csv.DictReader(out.read_text().splitlines())
    found = {row["value"]: row for row in rows if row["field"] == "sex"}
    assert {value: row["sensitive"] for value, row in found.items()} == {
        "[men]": "over",
        "women": "under",
    }
    assert (found["women"]["audience"], found["women"]["lift"]) == ("", "")
    assert float(found["[men]"]["lift"]) > 1


@pytest.mark.parametrize("has_seeds", [False, True])
def test_the_pool_is_who_could_be_in_the_audience(toy_campaign, words, tmp_path, capsys, has_seeds):
    """Not opt-outs, nor the seeds where the audience has none of them."""
    data = toy_campaign.dataset
    ids, out = data.user_ids[100 if has_seeds else 120 : 260], tmp_path / "traits.csv"
    words[1], excluded = tmp_path / "audience.csv", data.user_ids[110:150:2]
    words[1].write_text("\n".join(["user_id", *map(str, ids)]))
    (tmp_path / "optouts").write_text("\n".join(map(str, [*excluded, 1000001])))
    succeeds(main, *words, "--exclude", tmp_path / "optouts", "--out", out)
    printed = capsys.readouterr().out
    left_out = excluded if has_seeds else np.union1d(data.user_ids[:120], excluded)
    assert f"users in the audience, {400 - len(left_out)} in the pool\n" in printed
    assert f"note: {tmp_path / 'optouts'}: 20 of 21 ids to leave out are users of" in printed
    lines = out.read_text().splitlines()
    pools = {row["value"]: row["pool"] for row in csv.DictReader(lines) if row["sensitive"]}
    shares = sensitive_shares(data, ids, exclude=left_out, min_cell=20)
    assert pools == {share.value: str(share.pool) for share in shares}


def test_ids_of_no_user_do_not_count(toy_campaign, words, tmp_path, capsys):
    """As where users have left since the audience was found."""
    ids = [row["user_id"] for row in csv.DictReader(words[1].read_text().splitlines())]
    succeeds(main, *words)
    printed = capsys.readouterr().out
    words[1] = tmp_path / "more.csv"
    words[1].write_text("\n".join(["user_id", *ids, ids[0], "1000001", "1000002"]))
    succeeds(main, *words)
    told = f"note: {len(ids)} of {len(ids) + 2} ids of the audience are users of the data\n"
    assert capsys.readouterr().out == printed + told


def test_who_is_excluded_is_not_in_the_audience_either(toy_campaign, words, tmp_path, capsys):
    """As where the list is newer than the audience."""
    audience = [row["user_id"] for row in csv.DictReader(words[1].read_text().splitlines())]
    (tmp_path / "optouts").write_text("\n".join(audience[:9]))
    succeeds(main, *words, "--exclude", tmp_path / "optouts")
    printed = capsys.readouterr().out
    assert f"{len(audience) - 9:,} users in the audience" in printed
    assert "note: 9 users of the audience are excluded and were removed from it" in printed
    (tmp_path / "optouts").write_text("\n".join(audience))
    message = "all users of the audience are excluded; exclude fewer, or give other users of the a"
    refuses(capsys, main, *words, "--exclude", tmp_path / "optouts", words=(message,))


def test_a_value_that_is_too_rare_to_judge_is_unknown(toy_campaign, words, tmp_path):
    """Nobody of 25 is a woman, but as few could be left out of a fair audience by chance."""
    men = toy_campaign.dataset.user_ids[[user for user in range(120, 260) if user % 3]][:25]
    words[1], out = tmp_path / "men.csv", tmp_path / "traits.csv"
    words[1].write_text("\n".join(["user_id", *map(str, men)]))
    succeeds(main, *words, "--out", out)
    rows = csv.DictReader(out.read_text().splitlines())
    found = {row["value"]: row for row in rows if row["field"] == "sex"}
    women = found["women"]
    assert (women["sensitive"], women["audience"], women["impact"]) == ("unknown", "", "")


def test_seeds_who_are_excluded_do_not_count_as_seeds(toy_campaign, words, tmp_path, capsys):
    data = toy_campaign.dataset
    seeds, out = data.user_ids[:120], tmp_path / "traits.csv"
    (tmp_path / "optouts").write_text("\n".join(map(str, seeds[:30])))
    succeeds(main, *words, "--exclude", tmp_path / "optouts", "--out", out)
    assert "note: 30 seeds are excluded and count neither" in capsys.readouterr().out
    traits = audience_traits(data, data.user_ids[120:260], seeds[30:], exclude=seeds, min_cell=20)
    rows = [row for row in csv.DictReader(out.read_text().splitlines()) if not row["sensitive"]]
    assert [row["seeds"] for row in rows] == [
        "" if trait.seeds is None else str(trait.seeds) for trait in traits
    ]
    (tmp_path / "optouts").write_text("\n".join(map(str, seeds)))
    message = "all seeds are excluded; exclude fewer, or give other seeds"
    refuses(capsys, main, *words, "--exclude", tmp_path / "optouts", words=(message,))


def test_opt_outs_are_not_learned_from(toy_campaign, words, tmp_path, capsys):
    (tmp_path / "optouts").write_text("\n".join(map(str, toy_campaign.dataset.user_ids[:71])))
    model = ("--model", toy_campaign.model, "--attributes", toy_campaign.attributes)
    message = "49 seeds, too few to hold a fifth out"
    refuses(capsys, main, *words, *model, "--exclude", tmp_path / "optouts", words=(message,))


def test_what_the_model_uses(toy_campaign, words, tmp_path, capsys):
    """The table is the library's; that the model has seen the campaign is noted."""
    data, general = open_dataset(toy_campaign.data), load(toy_campaign.model)
    attributes = json.loads(toy_campaign.attributes.read_text())
    trained = replace(general, added=(AddedCampaign("tea", "", attributes),))
    save(trained, tmp_path / "trained")
    for model, seed in ((toy_campaign.model, 0), (tmp_path / "trained", 3)):
        more = ("--model", model, "--attributes", toy_campaign.attributes, "--seed", seed)
        succeeds(main, *words, *more)
        printed, general = capsys.readouterr().out, load(model)
        campaign = data.new_campaign(data.user_ids[:120], attributes, seed=seed)
        held = hold_out_seeds(method_of(general), general, data, campaign, seed=seed)
        used = field_importance(held, data, seed=seed)
        start = "Drop of the AUC of held-out seeds"
        shown = printed[printed.index(start) :]
        rows = [[f.field, f"{f.drop:.4f}", f"{f.error:.4f}"] for f in used.fields]
        assert " ".join(shown.split()).startswith(f"{start} ({used.auc:.4f}) ")
        cells = [re.findall(r"[^\s│|]+", line) for line in shown.splitlines()]
        assert [row for row in cells if row and row[0] in FIELDS] == rows
        assert (held.seen is None) == (seed == 0)
        assert (f"note: {held.seen}\n" in printed) == (seed == 3)


def test_a_campaigns_folder_has_its_seeds(tea, tmp_path, capsys):
    """With converts, who are in the pool if they are in the audience; excluded users never are."""
    shown, audience = tea.user_ids[200:220], tmp_path / "audience.csv"
    rows = [f"{user},{number < 5:d}" for number, user in enumerate(shown)]
    (tmp_path / "shown.csv").write_text("\n".join(["user_id,converted", *rows]))
    optouts = tmp_path / "optouts"
    optouts.write_text("\n".join(map(str, tea.user_ids[[*tea.seeds[:7], 300]])))
    audience.write_text("\n".join(["user_id", *map(str, tea.user_ids[203:280])]))
    succeeds(main, "feedback", tea.folder, tmp_path / "shown.csv")
    succeeds(main, "update", tea.folder, "--data", tea.data, "--exclude", optouts)
    capsys.readouterr()
    command = ("traits", audience, "--data", tea.data)
    out = ("--min-cell", 20, "--out", tmp_path / "traits.csv")
    succeeds(main, *command, "--model", tea.folder, *out, "--seed", 3)
    assert "77 users in the audience, 276 in the pool" in capsys.readouterr().out
    data = open_dataset(tea.data)
    seeds = np.concatenate([data.user_ids[tea.seeds], shown[:5]])[7:]
    left_out = np.concatenate([data.user_ids[tea.seeds], shown[:3], tea.user_ids[[300]]])
    ids = data.user_ids[203:280]
    traits = audience_traits(data, ids, seeds, exclude=left_out, min_cell=20)
    found = [row[:7] for row in csv.reader((tmp_path / "traits.csv").read_text().splitlines())]
    values = [(t.field, t.value, "", t.audience, t.seeds, t.pool, t.lift) for t in traits]
    assert found[1:] == [["" if cell is None else str(cell) for cell in row] for row in values]
    words = (f"{tea.folder}: is a campaign, which has its seeds and attributes; omit --seeds and",)
    refuses(capsys, main, *command, "--model", tea.folder, "--seeds", optouts, words=words)
    refuses(capsys, main, *command, words=("traits: give --seeds; or also --model and ",))


@pytest.mark.parametrize("option", ["--seeds", "--exclude"])
def test_a_missing_file_is_told_before_the_work_begins(words, tmp_path, capsys, option):
    given = {"--data": tmp_path / "no-data", option: tmp_path / "ids.csv"}
    words = with_options(words, given)
    refuses(capsys, main, *words, words=(f"{tmp_path / 'ids.csv'}: No such file",))


def test_what_is_wrong_is_named(toy_campaign, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for options, message in (
        (("--out", words[1]), f"--out: {words[1]} would replace a file that is read"),
        (("--out", "none/x.csv"), "--out: none is not a folder"),
        (("--out", "x.html"), "--out: x.html: expected a name that ends with .csv"),
        (("--min-cell", 0), "--min-cell: expected 1 or more, got 0"),
        (("--seed", -1), "--seed: expected 0 or more, got -1"),
        (("--model", toy_campaign.model), "traits: give --seeds and --attributes, or a campaign f"),
        (("--attributes", "x"), "traits: give --seeds; or also --model and --attributes; or a "),
    ):
        refuses(capsys, main, *words[:-2], *options, words=(message,))  # without --min-cell
    (tmp_path / "nobody.csv").write_text("user_id\n1000001\n")
    nobody = "nobody.csv: none of its 1 ids is a user of "
    for place in (1, words.index("--seeds") + 1):
        asked = [*words[:place], "nobody.csv", *words[place + 1 :]]
        refuses(capsys, main, *asked, words=(nobody, toy_campaign.data))
    (tmp_path / "nobody.csv").unlink()
    words[1] = toy_campaign.seeds
    message = f"{toy_campaign.seeds}: not the file of an audience, with a column user_id"
    refuses(capsys, main, *words, words=(message,))
    assert contents(tmp_path) == set()


@pytest.mark.parametrize("include_seeds", [False, True])
def test_a_report_has_the_pool_of_its_audience(toy_campaign, tmp_path, include_seeds):
    """All 120 seeds are men, and 134 of 400 users are women."""
    men = np.flatnonzero(np.arange(400) % 3 != 0)[:120]
    (tmp_path / "seeds").write_text("\n".join(map(str, toy_campaign.dataset.user_ids[men])))
    page, out = tmp_path / "page.html", tmp_path / "out.csv"
    options = ("--seeds", tmp_path / "seeds", "--attributes", toy_campaign.attributes)
    options += ("--size", 200, "--out", out, "--report", page)
    flag = ("--include-seeds",) if include_seeds else ()
    succeeds(main, "expand", toy_campaign.model, "--data", toy_campaign.data, *options, *flag)
    row = re.search(r">women<(.*?)</tr>", page.read_text(), re.DOTALL)[1]
    _, pool, *_ = re.findall(r">([^<>]+)</td>", row)
    assert pool == (f"{134 / 400:.1%}" if include_seeds else f"{134 / 280:.1%}")
