"""What `metaheac expand` says of seeds, attributes and sizes that it cannot work with."""

import json
from types import SimpleNamespace

import pytest
from commands import contents, exit_code, refuses
from toy import dataset

from metaheac_jax.cli.expand import read_attributes, read_user_ids
from metaheac_jax.cli.main import main
from metaheac_jax.data.storage import write_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.methods import method_named
from metaheac_jax.model import save

DATA = dataset(users=200, campaigns=4, per_campaign=40, pool=40)
SEEDS, ATTRIBUTES = DATA.user_key[:120], {"advertiser": 2, "category": 1}

# Files ------------------------------------------------------------------------------------------


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
    assert read_user_ids(path) == [5, -7, 9]


def test_user_ids_of_64_bits_are_read(tmp_path):
    path = tmp_path / "ids"
    ends = [2**63 - 1, -(2**63), 1234567890123456789]
    path.write_text("\n".join(map(str, ends)))
    assert read_user_ids(path) == ends


def test_text_ids_are_read(tmp_path):
    path = tmp_path / "ids"
    path.write_text("user_id\né 1\n-7\n\n")
    assert read_user_ids(path, text=True) == ["é 1", "-7"]
    path.write_text("anna\nuser_id\n")
    assert read_user_ids(path, text=True) == ["anna", "user_id"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "ids: no user ids; write one per line"),
        (b"\n\n", "ids: no user ids; write one per line"),
        (b"user_id\n", "ids: no user ids; write one per line"),
        (b"5\nsix\n", "ids:2: expected one user id, got 'six'"),
        (b"user_id\n5\nuser_id\n", "ids:3: expected one user id, got 'user_id'"),
        (b"user,score\n5,0.3\n", "ids:2: expected one user id, got '5,0.3'"),
        (b"5\n6.0\n", "ids:2: expected one user id, got '6.0'"),
        (b"5\n9223372036854775808\n", "ids:2: expected one user id, got '9223372036854775808'"),
        (b"5\n" + b"9" * 5000, "ids:2: expected one user id, got '" + "9" * 40 + "'"),
        ("5\n\u0663\n".encode(), "ids:2: expected one user id, got '\u0663'"),
        (b"5\n\xff\xfe\n", "ids: not a text file; save it as UTF-8"),
    ],
)
def test_user_ids_that_are_none_are_named(tmp_path, content, words):
    (tmp_path / "ids").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_user_ids(tmp_path / "ids")
    assert str(caught.value).endswith(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "attributes: not valid JSON (Expecting value: line 1 column 1 (char 0))"),
        ("{'advertiser': 2}", "attributes: not valid JSON ("),
        ("[1, 2]", 'attributes: expected a JSON object such as {"advertiserId": 42}'),
        ("3", "attributes: expected a JSON object"),
    ],
)
def test_attributes_that_are_none_are_named(tmp_path, text, words):
    (tmp_path / "attributes").write_text(text)
    with pytest.raises(InputError) as caught:
        read_attributes(tmp_path / "attributes")
    assert words in str(caught.value)


def test_attributes_are_read(tmp_path):
    (tmp_path / "attributes").write_bytes("\ufeff".encode() + json.dumps(ATTRIBUTES).encode())
    assert read_attributes(tmp_path / "attributes") == ATTRIBUTES


# The command ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    write_dataset(DATA, folder / "data")
    save(method_named("cosine").fit(DATA, campaigns=[0, 1, 2]), folder / "model")
    return SimpleNamespace(data=folder / "data", model=folder / "model")


@pytest.fixture
def options(made, tmp_path, monkeypatch):
    """Options that suit each other, by name; the files are in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seeds").write_text("\n".join(map(str, SEEDS)))
    (tmp_path / "attributes").write_text(json.dumps(ATTRIBUTES))
    names = {"--data": made.data, "--seeds": "seeds", "--attributes": "attributes"}
    return {"": made.model, **names, "--out": "audience.csv", "--size": 5}


def words_of(options):
    given = {name: value for name, value in options.items() if value is not None}
    return [str(word) for pair in given.items() for word in pair if word != ""]


def test_the_options_suit_each_other(options, tmp_path):
    assert exit_code(main, "expand", *words_of(options)) in (None, 0)
    assert len((tmp_path / "audience.csv").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--percent": 5}, "expand: give either --size or --percent"),
        ({"--size": None}, "expand: give either --size or --percent"),
        ({"--size": 0}, "size: expected a whole number of 1 or more, got 0"),
        ({"--size": None, "--percent": 101}, "percent: expected more than 0 and at most 100"),
        ({"--seeds": "none"}, "none: No such file"),
        ({"--attributes": "none"}, "none: No such file"),
        ({"--exclude": "none"}, "none: No such file"),
        ({"--seeds": "attributes"}, "attributes: no user ids"),
        ({"--exclude": "attributes"}, "attributes: no user ids"),
        ({"--attributes": "seeds"}, "seeds: not valid JSON"),
        ({"--least-seeds": 121}, "seeds: 120 of 120 seeds are users of the data, fewer than "),
    ],
)
def test_options_that_make_no_sense(options, tmp_path, capsys, changed, words):
    before = contents(tmp_path)
    refuses(capsys, main, "expand", *words_of({**options, **changed}), words=(words,))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ([1, 2], "none of the 2 seeds is a user of 'toy'"),
        ([*SEEDS[:99], 1, 2], "seeds: 99 of 101 seeds are users of the data, fewer than --least-"),
        ([*SEEDS[:99], SEEDS[0]], "seeds: 99 of 100 seeds"),
        (DATA.user_key, "all 200 users are seeds"),
    ],
)
def test_seeds_that_are_too_few_or_too_many(options, tmp_path, capsys, seeds, words):
    (tmp_path / "seeds").write_text("\n".join(map(str, seeds)))
    refuses(capsys, main, "expand", *words_of(options), words=(words,))
    assert contents(tmp_path) == {"seeds", "attributes"}


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"advertiser": 2}, "campaign attributes: has no 'category'"),
        ({**ATTRIBUTES, "price": 3}, "campaign attributes: has an unknown 'price'"),
        ({**ATTRIBUTES, "category": "food"}, "campaign attributes: category is 'food', expected"),
    ],
)
def test_attributes_of_other_fields(options, tmp_path, capsys, attributes, words):
    (tmp_path / "attributes").write_text(json.dumps(attributes))
    refuses(capsys, main, "expand", *words_of(options), words=(words,))
    assert contents(tmp_path) == {"seeds", "attributes"}
