"""Files of seeds, attributes and lists of campaigns, right and wrong."""

import gzip
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from toy import dataset

from metaheac_jax.cli.campaigns import (
    KEPT_GENERAL,
    Request,
    check_readable,
    find_campaign,
    model_notes,
    read_attributes,
    read_audience,
    read_campaigns,
    read_excluded,
    read_seeds,
    read_user_ids,
    seed_notes,
)
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema, Vocabulary

ATTRIBUTES = {"advertiser": 2, "category": 1}


def listed(ids):
    """Ids as a list, of text if they are bytes."""
    return [own.decode() if isinstance(own, bytes) else own for own in ids.tolist()]


@pytest.mark.parametrize(
    "text",
    [
        "5\n-7\n9",
        "5\n-7\n9\n",
        "user_id\n5\n-7\n9\n",
        "\n5\n\n -7 \n9\n\n",
        "\ufeff5\n-7\n9\n",
        "\ufeffuser_id\r\n5\r\n-7\r\n9\r\n",
    ],
)
def test_user_ids_are_read(tmp_path, text):
    path = tmp_path / "ids"
    path.write_bytes(text.encode())
    assert listed(read_user_ids(path)) == [5, -7, 9]


def test_user_ids_of_64_bits_are_read(tmp_path):
    path = tmp_path / "ids"
    ends = [2**63 - 1, -(2**63), 1234567890123456789]
    path.write_text("\n".join(map(str, ends)))
    assert listed(read_user_ids(path)) == ends


def test_text_ids_are_read(tmp_path):
    path = tmp_path / "ids"
    path.write_text("user_id\né 1\n-7\n\n")
    assert listed(read_user_ids(path, text=True)) == ["é 1", "-7"]
    path.write_text(" user_id \n u3\nu4   \n   \n")  # no id of the data has blanks around it
    assert listed(read_user_ids(path, text=True)) == ["u3", "u4"]
    path.write_text("anna\nuser_id\n")
    assert listed(read_user_ids(path, text=True)) == ["anna", "user_id"]
    path.write_text("label\nanna\n")  # a user, since nothing names a column of ids
    assert listed(read_seeds(path, text=True)) == ["label", "anna"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "ids: no user ids; write one per line"),
        (b"\n\n", "ids: no user ids; write one per line"),
        (b"user_id\n", "ids: no user ids; write one per line"),
        (b"5\nsix\n", "ids:2: expected one user id, got 'six'"),
        (b"user_id\n5\nuser_id\n", "ids:3: expected one user id, got 'user_id'"),
        (b"user,score\n5,0.3\n", "'5,0.3'; name the column of the ids user_id in the first line"),
        (b"5\n6.0\n", "ids:2: expected one user id, got '6.0'"),
        (b"5\n007\n", "ids:2: expected one user id, got '007'"),
        (b"5\n-0\n", "ids:2: expected one user id, got '-0'"),
        (b"5\n+8\n", "ids:2: expected one user id, got '+8'"),
        (b"5\n1_000\n", "ids:2: expected one user id, got '1_000'"),
        (b"user_id,score\n007,0.3\n", "ids:2: expected one user id, got '007,0.3'"),
        (b"007\n5\n", "ids:1: expected one user id, got '007'"),
        (b"+8\n5\n", "ids:1: expected one user id, got '+8'"),
        (b"12.0\n5\n", "ids:1: expected one user id, got '12.0'"),
        (b"1_000\n5\n", "ids:1: expected one user id, got '1_000'"),
        (b"9223372036854775808\n5\n", "ids:1: expected one user id, got '9223372036854775808'"),
        (b"5\n9223372036854775808\n", "ids:2: expected one user id, got '9223372036854775808'"),
        (b"5\n" + b"9" * 5000, "ids:2: expected one user id, got '" + "9" * 40 + "'"),
        ("5\n\u0663\n".encode(), "ids:2: expected one user id, got '\u0663'"),
        (b"5\n\xff\xfe\n", "ids: not a text file; save it as UTF-8"),
        (
            b"score,user_id\n0,5,12345\n",
            "ids:2: expected 2 cells, as the first line has; fix or remove it",
        ),
        (
            b"rank,user_id,score\n1,12,.5\n2,1\n",
            "ids:3: expected 3 cells, as the first line has; fix or remove it",
        ),
        (
            b"rank,user_id\n1,7\n\n8\n",
            "ids:4: expected 2 cells, as the first line has; fix or remove it",
        ),
        (b"user_id\n7,\n", "ids:2: expected 1 cell, as the first line has; fix or remove it"),
    ],
)
def test_invalid_user_ids_are_named(tmp_path, content, words):
    (tmp_path / "ids").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_user_ids(tmp_path / "ids")
    assert str(caught.value).endswith(words)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('5\n"6\n7\n', "ids:2: expected one user id (unexpected end of data); fix or remove the l"),
        ('5\n"6\n7"\n8\n', "ids:2: expected one user id, got '6\\n7'"),
        ('5\n"6"7\n8\n', "ids:2: expected one user id (',' expected after '\"'); fix or remove"),
        ('5\n"6\n7"8\n9\n', "ids:2: expected one user id (',' expected after '\"'); fix or re"),
        ('user_id,age\n"5\n6",3\n', "ids:2: expected one user id, got '5\\n6,3'"),
        ("5\n" + "9" * 140_000, "ids:2: expected one user id (field larger than field limit ("),
    ],
)
def test_a_stray_quote_neither_joins_ids_nor_breaks_the_command(tmp_path, content, words, text):
    (tmp_path / "ids").write_text(content)
    with pytest.raises(InputError) as caught:
        read_user_ids(tmp_path / "ids", text=text)
    assert words in str(caught.value)


def test_an_id_that_is_too_long_is_refused_with_its_file(tmp_path):
    (tmp_path / "ids").write_text("ann\n" + 65 * "x")
    with pytest.raises(InputError, match=r"ids: user ids: expected text of 1 to 64 bytes, got 'x"):
        read_user_ids(tmp_path / "ids", text=True)


def test_a_comma_inside_a_name_makes_no_id(tmp_path):
    (tmp_path / "ids").write_text("name,user_id\nAnn,u1\nSmith, John,u77\n")
    with pytest.raises(InputError, match="ids:3: expected 2 cells"):
        read_user_ids(tmp_path / "ids", text=True)


def test_an_id_may_be_in_quotes(tmp_path):
    (tmp_path / "ids").write_text('"5"\n"-7"\r\n9\n')
    assert listed(read_user_ids(tmp_path / "ids")) == [5, -7, 9]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "attributes: not valid JSON (Expecting value: line 1 column 1 (char 0))"),
        ("{'advertiser': 2}", "attributes: not valid JSON ("),
        ("[1, 2]", 'attributes: expected a JSON object such as {"advertiserId": 42}'),
        ("3", "attributes: expected a JSON object"),
    ],
)
def test_invalid_attributes_are_named(tmp_path, text, words):
    (tmp_path / "attributes").write_text(text)
    with pytest.raises(InputError) as caught:
        read_attributes(tmp_path / "attributes")
    assert words in str(caught.value)


def test_a_campaign_needs_a_row_per_user(tmp_path):
    """The authors' files have several, whose ids are those of no person."""
    data = replace(dataset(users=60, campaigns=4, per_campaign=10, pool=10), one_row_per_user=False)
    (tmp_path / "seeds").write_text("\n".join(map(str, data.user_ids[:5])))
    (tmp_path / "attributes.json").write_text('{"advertiser": 2, "category": 1}')
    with pytest.raises(InputError, match="a user may have several rows, so no audience"):
        find_campaign(data, tmp_path / "seeds", tmp_path / "attributes.json", seed=0)


def test_attributes_are_read(tmp_path):
    (tmp_path / "attributes").write_bytes("\ufeff".encode() + json.dumps(ATTRIBUTES).encode())
    assert read_attributes(tmp_path / "attributes") == ATTRIBUTES


# Audiences ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "text", "words"),
    [
        ("a.csv", b"user,score\n5,1\n", False, "not the file of an audience, with a column user_"),
        ("a.csv", b"user_id\nfive\n", False, "line 2: user_id is 'five', expected a whole number"),
        ("a.csv", b"user_id\n5\n007\n", False, "line 3: user_id is '007', expected a whole number"),
        ("a.csv", b"user_id\n+8\n", False, r"line 2: user_id is '\+8', expected a whole number"),
        ("a.csv", b"user_id\n12.0\n", False, "line 2: user_id is '12.0', expected a whole number"),
        ("a.csv", b"user_id,score\n5,1\n,2\n", False, "line 3: no user_id"),
        ("a.csv", b"", True, "is empty"),
        ("a.csv.gz", b"\x1f\x8bhalf", True, "cannot be read"),
        ("a.parquet", b"user_id\n5\n", True, "cannot be read"),
    ],
)
def test_what_is_no_audience_is_named(tmp_path, name, content, text, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: {words}"):
        read_audience(tmp_path / name, text=text)


@pytest.mark.parametrize("text", [False, True])
def test_lists_are_no_ids(tmp_path, text):
    pl.DataFrame({"user_id": [[1], [2]]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a.parquet: user_id is of type List\(Int64\), expected"):
        read_audience(tmp_path / "a.parquet", text=text)


# Campaigns --------------------------------------------------------------------------------------

TEA = {"name": "tea", "seeds": "tea.csv", "attributes": ATTRIBUTES}
GOLF = {"name": "golf é", "seeds": "/all/golf.csv", "attributes": {}, "previous": "old/golf.csv"}
SAVED = {"name": "saved", "folder": "campaigns/saved", "suppress": "buyers", "percent": 2.5}


@pytest.mark.parametrize(
    "text",
    [f"{json.dumps(TEA)}\n\n{json.dumps(GOLF)}\n{json.dumps(SAVED)}\n", [TEA, GOLF, SAVED]],
)
def test_campaigns_are_read(tmp_path, text):
    path = tmp_path / "campaigns"
    path.write_text(text if isinstance(text, str) else json.dumps(text, indent=2))
    assert read_campaigns(path) == [
        Request(tmp_path / "tea.csv", ATTRIBUTES, name="tea"),
        Request(type(path)("/all/golf.csv"), {}, tmp_path / "old" / "golf.csv", name="golf é"),
        Request(
            tmp_path / "campaigns" / "saved",
            None,
            suppress=tmp_path / "buyers",
            percent=2.5,
            name="saved",
        ),
    ]


def test_an_optional_part_that_is_null_is_missing(tmp_path):
    """Programs that write tables as JSON lines write all columns of all campaigns."""
    path = tmp_path / "campaigns"
    nothing = dict.fromkeys(("seeds", "attributes", "folder", "previous", "suppress", "size"))
    nothing |= dict.fromkeys(("percent", "base_rate"))
    path.write_text("\n".join(json.dumps({**nothing, **own}) for own in (TEA, GOLF, SAVED)))
    plain = tmp_path / "plain"
    plain.write_text(json.dumps([TEA, GOLF, SAVED]))
    assert read_campaigns(path) == read_campaigns(plain)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_ends_where_json_lines_do(tmp_path, end):
    names = [f"tea{mark}time" for mark in "\u2028\u2029\x85\x7f"]
    path = tmp_path / "campaigns"
    lines = [json.dumps({**TEA, "name": name}, ensure_ascii=False) for name in names]
    path.write_bytes("".join(line + end for line in lines).encode())
    assert [request.name for request in read_campaigns(path)] == names
    path.write_bytes("".join(line + end for line in [*lines, "{'name'}"]).encode())
    with pytest.raises(InputError, match="campaigns:5: not valid JSON"):
        read_campaigns(path)
    ids = tmp_path / "ids"
    ids.write_bytes("".join(name + end for name in names).encode())
    assert listed(read_user_ids(ids, text=True)) == names


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (3, 'campaign number 2: expected a "name" that can be the name of a file'),
        ({**GOLF, "name": 5}, 'campaign number 2: expected a "name"'),
        ({**GOLF, "name": ""}, 'campaign number 2: expected a "name"'),
        ({**GOLF, "name": "../golf"}, 'campaign number 2: expected a "name"'),
        ({**GOLF, "name": ".golf"}, 'campaign number 2: expected a "name"'),
        ({**GOLF, "name": "é" * 101}, 'campaign number 2: expected a "name"'),
        ({**GOLF, "seeds": "a\0.csv"}, "campaign golf é: seeds: expected the name of a file, got"),
        ({**GOLF, "name": "tea"}, "campaign tea: occurs twice; give each a name of its own"),
        ({"name": "golf", "seeds": "x"}, "campaign golf: has no 'attributes'; expected name, seed"),
        ({**TEA, "name": "golf", "sise": 3}, "campaign golf: has an unknown 'sise'; expected name"),
        ({**GOLF, "seeds": None}, "campaign golf é: has no 'seeds'; expected name, seeds and attr"),
        ({**GOLF, "seeds": [1]}, "campaign golf é: seeds: expected the name of a file, got [1]"),
        ({**GOLF, "previous": 1}, "campaign golf é: previous: expected the name of a file, got 1"),
        ({**GOLF, "attributes": "x"}, "campaign golf é: attributes: expected a JSON object"),
        (
            {**GOLF, "folder": "x"},
            "campaign golf é: has an unknown 'seeds'; expected name, seeds a",
        ),
        ({**SAVED, "folder": 3}, "campaign saved: folder: expected the name of a folder, got 3"),
        ({"name": "golf"}, "campaign golf: has no 'seeds'; expected name, seeds and attributes, "),
    ],
)
def test_a_campaign_that_is_wrong_is_named(tmp_path, entry, words):
    path = tmp_path / "campaigns"
    for text in (f"{json.dumps(TEA)}\n{json.dumps(entry)}", json.dumps([TEA, entry])):
        path.write_text(text)
        with pytest.raises(InputError) as caught:
            read_campaigns(path)
        assert str(caught.value).startswith(f"{path}: {words}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "campaigns: no campaign"),
        ("[]", "campaigns: no campaign"),
        (f"{json.dumps(TEA)}\n\n{{'name'}}", "campaigns:3: not valid JSON (Expecting property"),
        ("[{}", "campaigns: not valid JSON ("),
        ('{"name": "\\ud800"}', "campaigns:1: not valid JSON ("),
        ('[{"name": "\\ud800"}]', "campaigns: not valid JSON ("),
    ],
)
def test_a_file_of_no_campaigns(tmp_path, text, words):
    path = tmp_path / "campaigns"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_campaigns(path)
    assert words in str(caught.value)


def test_opt_outs_are_found_in_a_column_and_told_where_they_are_no_users(tmp_path):
    """An audience file will do; a file of other ids would leave nobody out in silence."""
    data = dataset(users=40, campaigns=3, per_campaign=20, pool=20)
    some = data.user_ids[:3].tolist()
    path = tmp_path / "out.csv"
    path.write_text("rank,user_id,score\n" + "".join(f'1,"{user}",.5\n' for user in some))
    excluded, notes = read_excluded([path], data)
    assert (excluded.tolist(), notes) == (some, [])
    more = tmp_path / "more"
    more.write_text(f"{some[0]}\n1000001\n{some[0]}\n")
    excluded, notes = read_excluded([path, more], data)
    assert excluded.tolist() == [*some, 1000001]  # each once
    assert notes == [f"{more}: 1 of 2 ids to leave out are users of the data"]
    path.write_text("id\n1000001\n1000002\n1000001\n")
    excluded, notes = read_excluded([path], data)  # they may all have left
    assert excluded.tolist() == [1000001, 1000002]
    words = "0 of 2 ids to leave out are users of the data; check that they are ids of the prepared"
    assert notes == [f"{path}: {words} users"]


def test_the_column_of_ids_is_the_one_with_the_plainest_name(tmp_path):
    path = tmp_path / "ids"
    path.write_text("id,uid,User_ID\n1,2,3\n")
    assert listed(read_user_ids(path)) == [3]
    path.write_text("age,uid\n1,2\n")
    assert listed(read_user_ids(path, text=True)) == ["2"]


@pytest.mark.parametrize("name", ["ids.csv", "ids.parquet"])
@pytest.mark.parametrize(
    ("found", "other"),
    [("id", "customer_id"), ("ID", "uid"), ("uid", "CampaignId"), ("uid", "ad ID"), ("id", "paid")],
)
def test_a_number_of_the_row_is_not_taken_for_an_id(tmp_path, name, found, other):
    columns, path = [other, found], tmp_path / name
    if other == "uid":  # of two such names, the plainer one is the one that is read
        found, other = other, found
    frame = pl.DataFrame([(1, 5017)], schema=columns, orient="row")
    frame.write_parquet(path) if name.endswith("parquet") else frame.write_csv(path)
    for text in (False, True):
        if other == "paid":
            assert listed(read_user_ids(path, text=text)) == ["5017" if text else 5017]
            continue
        words = f"has the columns {found} and {other}; name the column of user ids user_id"
        with pytest.raises(InputError, match=words):
            read_user_ids(path, text=text)
    frame.rename({found: "userId"}).write_csv(path.with_suffix(".csv"))
    assert listed(read_user_ids(path.with_suffix(".csv"))) == [int(frame[found][0])]


@pytest.mark.parametrize("first", ["\u200b5017", "'5017", "#5017", "u5017"])
def test_an_id_on_the_first_line_is_not_taken_for_a_header(tmp_path, first):
    path = tmp_path / "ids"
    path.write_text(f"{first}\n5018\n")
    with pytest.raises(InputError, match=r"ids:1: expected one user id, got"):
        read_user_ids(path)
    path.write_text("customer\n5018\n")
    assert listed(read_user_ids(path)) == [5018]


@pytest.mark.parametrize(("text", "ids"), [(False, [5, -7]), (True, ["5", "-7"])])
def test_user_ids_are_read_from_tables(tmp_path, text, ids):
    path = tmp_path / "ids.parquet"
    for columns in ({"id": [1, 2], "user_id": [5, -7]}, {"age": [1, 2], "ID": [5, -7]}):
        pl.DataFrame(columns).write_parquet(path)
        check_readable(path)
        assert listed(read_user_ids(path, text=text)) == ids
    pl.DataFrame({"age": [1, 2]}).write_parquet(path)
    for read in (check_readable, read_user_ids):
        with pytest.raises(InputError, match=r"ids.parquet: has no column 'user_id'; it has age"):
            read(path)


@pytest.mark.parametrize("content", ["user_id\n5\n-7\n\n", " 5\n-7\n", "age,id\n1,5\n2, -7\n"])
def test_compressed_user_ids_are_those_of_the_file(tmp_path, content):
    plain, packed = tmp_path / "ids.csv", tmp_path / "ids.csv.gz"
    plain.write_text(content)
    packed.write_bytes(gzip.compress(content.encode()))
    check_readable(packed)
    assert listed(read_user_ids(packed)) == listed(read_user_ids(plain)) == [5, -7]


PACKED = gzip.compress(b"5\n", mtime=0)  # so that all processes name the tests alike


@pytest.mark.parametrize("content", [b"5\n", PACKED[:-9], PACKED[:10] + b"\xff" + PACKED[11:]])
def test_a_damaged_compressed_file_is_named(tmp_path, content):
    path = tmp_path / "ids.csv.gz"
    path.write_bytes(content)
    for read in (check_readable, read_user_ids):
        with pytest.raises(InputError, match=r"ids.csv.gz: cannot be read \(.*\); write"):
            read(path)


def test_nobody_may_have_opted_out(tmp_path):
    data = dataset(users=40, campaigns=3, per_campaign=20, pool=20)
    path, table = tmp_path / "out.csv", tmp_path / "out.parquet"
    path.write_text("user_id,name\n")
    pl.DataFrame({"user_id": []}, {"user_id": pl.Int64}).write_parquet(table)
    excluded, notes = read_excluded([path, table], data)
    assert not len(excluded)
    assert notes == [f"{path}: has no users to leave out", f"{table}: has no users to leave out"]
    for content in ("", "\n", "name\n"):
        path.write_text(content)
        with pytest.raises(InputError, match=r"out.csv: no user ids"):
            read_excluded([path], data)
    with pytest.raises(InputError, match=r"out.parquet: no user ids; write one per row"):
        read_user_ids(table)


def test_text_ids_with_a_comma_are_no_ids(tmp_path):
    path = tmp_path / "ids"
    path.write_text("ann,2026-01-01\nbob,2026-01-02\n")
    with pytest.raises(InputError, match=r"ids:1: expected one user id, got 'ann,2026-01-01'"):
        read_user_ids(path, text=True)
    path.write_text('id\n"ann"\nbob\n')
    assert listed(read_user_ids(path, text=True)) == ["ann", "bob"]


# Notes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "others", "notes"),
    [
        (1000, 1000, []),
        (999, 999, ["with fewer than 1,000 seeds an audience is less reliable"]),
        (1000, 999, ["there are only 999 other users to tell 1,000 seeds from; use a larger pool"]),
    ],
)
def test_examples_have_these_notes(seeds, others, notes):
    assert seed_notes(np.repeat([1, 0], [seeds, others])) == notes


@pytest.mark.parametrize(
    ("unknown", "is_general", "notes"),
    [
        ((), False, []),
        (
            ("advertiser", "topic"),
            False,
            [
                "training has not seen these values of the campaign: advertiser 7, "
                "topic ' DRINKS' (did you mean 'Drinks'?)"
            ],
        ),
        (
            ("place",),
            False,
            ["training has not seen these values of the campaign: place (missing)"],
        ),
        ((), True, [KEPT_GENERAL]),
    ],
)
def test_a_customised_model_has_these_notes(unknown, is_general, notes):
    campaign = Campaign(
        "tea",
        np.zeros(2, int),
        np.arange(2),
        np.array([1, 0]),
        unknown_attributes=unknown,
        attributes={"place": None, "advertiser": 7, "topic": " DRINKS"},
    )
    general = SimpleNamespace(
        schema=Schema((Field("city"),), (Field("advertiser"), Field("topic"), Field("place"))),
        vocabulary=Vocabulary(
            (np.array(["Drink"]), np.array([70, 71]), np.array(["", "Drinks"]), np.array(["One"]))
        ),
    )
    model = SimpleNamespace(campaign=campaign, general=general, is_general=is_general)
    assert model_notes(model) == notes
