"""`metaheac traits`: values, sensitive values and what the model uses."""

import csv

import pytest
from commands import contents, refuses, succeeds

from metaheac_jax.audience.traits import audience_traits, sensitive_shares
from metaheac_jax.cli.main import main


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
    traits = audience_traits(data, ids, seeds, min_cell=20)
    shares = sensitive_shares(data, ids, min_cell=20)
    header, *rows = csv.reader((tmp_path / "traits.csv").read_text().splitlines())
    assert header == ["field", "value", "sensitive", "audience", "seeds", "pool", "lift"]

    def text(*cells):
        return ["" if cell is None else str(cell) for cell in cells]

    expected = [text(t.field, t.value, "", t.audience, t.seeds, t.pool, t.lift) for t in traits]
    expected += [text("sex", s.value, "ok", s.audience, None, s.pool, s.ratio) for s in shares]
    assert rows == expected
    assert "140 users in the audience, 400 in the pool" in printed
    assert "Sensitive fields, which the model does not see" in printed
    assert " [men] " in printed  # text of the data is no markup of the screen's
    assert "Drop of the AUC" not in printed


def test_what_the_model_uses(toy_campaign, words, capsys):
    model = ("--model", toy_campaign.model, "--attributes", toy_campaign.attributes)
    succeeds(main, *words, *model)
    printed = capsys.readouterr().out
    assert "Drop of the AUC of held-out seeds" in printed
    table = printed[printed.index("Drop of the AUC") :]
    assert all(f" {field.name} " in table for field in toy_campaign.dataset.schema.user)


def test_what_is_wrong_is_named(toy_campaign, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for options, message in (
        (("--out", "none/x.csv"), "--out: none is no folder"),
        (("--min-cell", 0), "--min-cell: expected 1 or more, got 0"),
        (("--seed", -1), "--seed: expected 0 or more, got -1"),
        (("--model", toy_campaign.model), "traits: give --model and --attributes together"),
        (("--attributes", "x"), "traits: give --model and --attributes together"),
    ):
        refuses(capsys, main, *words, *options, words=(message,))
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
