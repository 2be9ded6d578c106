"""Rows that are added to data in a folder: what they change, and what they leave as it was."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables_world import SCHEMA, world, write
from toy import check_data, write_dataset

from metaheac_jax.audience.expanding import expand
from metaheac_jax.data import storage
from metaheac_jax.data.adding import add
from metaheac_jax.data.preparing import prepare
from metaheac_jax.data.storage import MANIFEST, open_dataset
from metaheac_jax.errors import Busy, InputError
from metaheac_jax.files import locked
from metaheac_jax.methods import fit
from metaheac_jax.schema import Field, Schema

TABLES = world(num_users=60)
IDS, EXAMPLES = TABLES[0]["user_id"], TABLES[2]
NAMES = ["campaign_id", "user_id", "label", "stage", "audience"]
NEW = pl.DataFrame({"campaign_id": ["k9", "k1"], "topic": ["tea", "sport"], "budget": [None, 5.0]})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    prepare(write(folder / "tables", *TABLES), folder / "data", schema=SCHEMA)
    return folder / "data"


@pytest.fixture
def data(prepared, tmp_path):
    return open_dataset(shutil.copytree(prepared, tmp_path / "data"))


def frame(rows):
    """Examples, as (campaign, user's index, label, stage, audience), as a table."""
    return pl.DataFrame([(c, IDS[u], *rest) for c, u, *rest in rows], NAMES, orient="row")


def content(data):
    """(campaign, user) -> (label, stage, audience) of all examples, and attributes by campaign."""
    rows, names = {}, [own.decode() for own in data.campaign_ids]
    for name, stage in data.stages.items():
        number = 2 if name == "stage2" else 1
        columns = (stage.campaign, stage.user, stage.label, stage.in_audience)
        for c, u, label, audience in zip(*columns, strict=True):
            user = IDS.index(data.user_ids[u].decode())
            assert (names[c], user) not in rows
            assert name != "left_out" or (audience and not label)
            rows[names[c], user] = (label, number, int(audience))
    values, first = data.vocabulary.values[-2:], data.vocabulary.offsets[-2:]
    attributes = {
        name: [values[f][row[f] - first[f]] for f in (0, 1)]
        for name, row in zip(names, data.campaign_rows, strict=True)
    }
    return rows, attributes


def files_of(data):
    return {path.name: path.stat().st_mtime_ns for path in data.folder.iterdir()}


row = st.tuples(
    st.sampled_from(["k0", "k1", "k9"]),
    st.integers(0, 59),
    st.integers(0, 1),
    st.sampled_from([1, 1, 2]),
    st.integers(0, 1),
)


@settings(max_examples=12)
@given(st.lists(row, min_size=1, max_size=30), st.lists(row, min_size=1, max_size=30))
def test_the_last_row_of_a_campaign_and_user_counts(prepared, tmp_path_factory, one, two):
    folder = tmp_path_factory.mktemp("added")
    data = open_dataset(shutil.copytree(prepared, folder / "a"))
    expected = {(c, IDS.index(u)): (label, s, 0) for c, u, label, s in EXAMPLES}
    expected |= {(c, u): tuple(rest) for c, u, *rest in [*one, *two]}
    first = add(data, campaigns=NEW, examples=frame(one))
    parts = add(first, examples=frame(two))
    check_data(parts)
    rows, attributes = content(parts)
    assert rows == expected
    assert attributes["k9"] == ["tea", -1]
    assert attributes["k1"][0] == "sport"
    assert attributes["k2"] == content(data)[1]["k2"]
    assert add(parts, campaigns=NEW, examples=frame(two)).digest == parts.digest
    at_once = open_dataset(shutil.copytree(prepared, folder / "b"))
    at_once = add(at_once, campaigns=NEW, examples=frame([*one, *two]))
    assert content(at_once) == (rows, attributes)
    if not {own[:2] for own in one} & {own[:2] for own in two}:
        assert at_once.digest == parts.digest
    assert parts.digest == open_dataset(parts.folder).digest


def test_a_control_group_has_seeds_and_no_non_seeds(data):
    """What the shown users become does not depend on it."""
    shown = [("k0", u, int(u % 9 == 0), 1, 1) for u in range(30)]
    group = ["shown"] * 30 + ["control"] * 20
    control = [("k0", u, int(u % 10 == 0), 1, 0) for u in range(30, 50)]
    alone = add(data, examples=frame(shown))
    both = frame([*shown, *control]).with_columns(pl.Series("group", group))
    for examples in (both, frame([("k0", 55, 1, 1, 0)])):  # the campaign's rows are divided again
        data = add(data, examples=examples)
        users = {own: set(stage.user[stage.of(0)]) for own, stage in data.stages.items()}
        assert {u for u in range(30, 50) if u % 10} <= users["left_out"]
        assert {30, 40} <= users["stage1"]
        assert set(data.audience_of(0)[0][data.audience_of(0)[2]]) == {*range(30, 50)}
        if examples is both:
            kept = set(alone.stage1.user[alone.stage1.of(0)])
            assert kept & {*range(30)} == users["stage1"] & {*range(30)}


def test_a_group_is_shown_or_control(data, tmp_path):
    frame([("k0", 3, 1, 1, 0)]).with_columns(group=pl.lit("half")).write_csv(tmp_path / "e.csv")
    with pytest.raises(InputError, match=r"e\.csv: line 2: group is 'half', expected shown"):
        add(data, examples=tmp_path / "e.csv")


def test_users_are_neither_read_nor_written(data):
    """Their files stay, and their empty slots are mapped where the vocabulary has grown."""
    before, user_rows = files_of(data), np.array(data.user_rows)
    ids = data.folder / next(name for name in before if name.startswith("user_rows"))
    same = add(data, examples=frame([("k0", 3, 1, 1, 0)]))
    assert same.user_rows.lookup is None
    new = add(same, campaigns=NEW)
    kept = {name for name in before if name.startswith("user_")}
    assert len(kept) == 2
    assert {name: files_of(new)[name] for name in kept} == {name: before[name] for name in kept}
    assert new.user_rows.lookup is not None
    assert new.num_rows == data.num_rows + 1 < new.vocabulary.num_rows + 1
    pads = user_rows == data.num_rows
    np.testing.assert_array_equal(new.user_rows[:], np.where(pads, new.num_rows, user_rows))
    back = new.encoded_for(data.schema, data.vocabulary)
    np.testing.assert_array_equal(back.user_rows[5:9], user_rows[5:9])
    write_dataset(new, data.folder.parent / "copy")
    copy = open_dataset(data.folder.parent / "copy")
    assert copy.user_rows.lookup is None
    np.testing.assert_array_equal(copy.user_rows, new.user_rows[:])
    assert ids.exists()
    np.testing.assert_array_equal(data.user_rows, user_rows)  # what was open stays as it was


def test_rows_that_are_known_change_nothing(data):
    seeds = [(c, IDS.index(u), label, s, 0) for c, u, label, s in EXAMPLES]
    assert add(data, examples=frame(seeds)).digest == data.digest
    assert add(data).digest == data.digest
    [user, label, stage] = next(own[1:4] for own in seeds if own[0] == "k2")
    changed = add(data, examples=frame([("k2", user, 1 - label, stage, 0)]))
    assert changed.digest != data.digest
    for c in (0, 1, 3):  # the order of other campaigns stays
        of = data.stage1.of(c)
        np.testing.assert_array_equal(changed.stage1.user[of], data.stage1.user[of])


def test_ids_and_values_of_both_kinds(tmp_path):
    """Whole numbers become text where text is added, and the rows follow."""
    users = {"user_id": range(9), "city": ["a"] * 9, "income": range(9), "likes": [["x"]] * 9}
    tables = (users, {"campaign_id": [30, 4], "topic": [7, None], "budget": [1, 2]})
    source = write(tmp_path / "t", *tables, [(30, 1, 1, 1), (4, 2, 1, 1)])
    data = prepare(source, tmp_path / "d", schema=SCHEMA)
    assert data.campaign_ids.tolist() == [4, 30]
    (tmp_path / "new.csv").write_text("campaign_id,topic,budget\nk,tea,1\n5,7,2\n")
    (tmp_path / "seeds.csv").write_text("user_id,campaign_id,label\n8,k,1\n2,4,0\n")
    new = add(data, tmp_path / "new.csv", str(tmp_path / "seeds.csv"))
    check_data(new)
    assert new.campaign_ids.tolist() == [b"30", b"4", b"5", b"k"]
    assert new.vocabulary.values[3].tolist() == ["", "7", "tea"]
    rows = new.campaign_rows[:, 0] - new.vocabulary.offsets[3]
    assert rows.tolist() == [1, 0, 1, 2]
    assert new.stage1.user.tolist() == [1, 2, 8]
    assert new.stage1.label.tolist() == [1, 0, 1]
    assert new.index_of("k") == 3


# Forgetting -------------------------------------------------------------------------------------


def test_the_excluded_are_gone_from_every_byte(data):
    gone = [IDS[3], IDS[40], "nobody"]
    rows = [("k0", u, 0, 1, 1) for u in range(30, 45)]
    before, data = content(add(data, examples=frame(rows)))[0], add(data, examples=frame(rows))
    (data.folder.parent / "out.csv").write_text("user_id\n" + "\n".join(gone) + "\n")
    with pytest.warns(UserWarning, match=r"out.csv: 2 of 3 ids are users; 1 is not, such as no"):
        after = add(data, exclude=[data.folder.parent / "out.csv"])
    check_data(after)
    open_dataset(after.folder)
    kept = {key: value for key, value in before.items() if key[1] not in (3, 40)}
    assert content(after)[0] == kept
    place = [IDS.index(own.decode()) for own in after.user_ids]
    assert place == [u for u in range(60) if u not in (3, 40)]
    np.testing.assert_array_equal(after.user_rows, data.user_rows[place])
    written = {path.name: path.read_bytes() for path in after.folder.iterdir()}
    for own in gone:
        assert not [name for name, part in written.items() if own.encode() in part]
    assert any(IDS[4].encode() in part for part in written.values())
    with pytest.warns(UserWarning, match=r"examples: 1 of 3 examples are of unknown users"):
        again = add(after, examples=frame([("k1", u, 1, 1, 0) for u in (3, 4, 5)]))
    assert ("k1", 3) not in content(again)[0]
    with pytest.raises(
        InputError, match=r"^exclude: 0 of 3 ids are users; .* omit it if they were removed"
    ):
        add(after, exclude=gone)
    assert open_dataset(after.folder).digest == again.digest
    with pytest.raises(InputError, match="all 58 users are to be excluded"):
        add(after, exclude=after.user_ids)


def test_values_of_the_excluded_alone_are_forgotten(tmp_path):
    """The data are then those of tables that never had them, but for the order of examples."""
    users, campaigns, examples = world(num_users=40)
    users["city"][7], users["likes"][7], users["likes"][8] = "Thule", ["t1", "12"], ["numismatics"]
    users["sex"] = ["f", "m"] * 20
    users["sex"][8] = "x"
    schema = replace(SCHEMA, user=(*SCHEMA.user, Field("sex", sensitive=True)))
    source, gone = write(tmp_path / "s", users, campaigns, examples), users["user_id"][7:9]
    data = prepare(source, tmp_path / "all", schema=schema)
    edges = Schema.read(tmp_path / "all" / "schema.json")
    expected = prepare(source, tmp_path / "few", schema=edges, exclude=gone)
    fewer = add(add(data, campaigns=NEW), exclude=gone)  # the pad id of the file is not the data's
    check_data(fewer)
    expected = add(expected, campaigns=NEW)
    for own, other in zip(fewer.vocabulary.values, expected.vocabulary.values, strict=True):
        assert (own.dtype, own.tolist()) == (other.dtype, other.tolist())
    np.testing.assert_array_equal(fewer.user_rows, expected.user_rows[:])
    np.testing.assert_array_equal(fewer.campaign_rows, expected.campaign_rows)
    assert fewer.sensitive["sex"].values.tolist() == ["f", "m"]
    np.testing.assert_array_equal(fewer.sensitive["sex"].codes, expected.sensitive["sex"].codes)
    written = b"".join(path.read_bytes() for path in fewer.folder.iterdir())
    for text in ("Thule", "numismatics", *gone):
        assert text.encode() not in written
        assert text.encode("utf-32-le") not in written


def test_what_a_killed_removal_left_is_removed_even_if_nobody_matches(data, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(storage, "remove_unlisted", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            add(data, exclude=IDS[3:4])
    assert any(IDS[3].encode() in path.read_bytes() for path in data.folder.iterdir())
    with pytest.raises(InputError, match=r"^exclude: 0 of 1 ids are users"):
        add(data, exclude=IDS[3:4])
    assert not any(IDS[3].encode() in path.read_bytes() for path in data.folder.iterdir())


def test_a_list_that_nobody_has_any_more_is_empty(tmp_path):
    users, campaigns, examples = world(num_users=60)
    users["likes"] = [["tea"], *[[]] * 59]
    source = write(tmp_path / "s", users, campaigns, examples)
    data = prepare(source, tmp_path / "d", schema=SCHEMA)
    fewer = add(data, exclude=users["user_id"][:1])
    assert fewer.vocabulary.sizes[2] == 0
    assert (fewer.user_rows[:, 2:] == fewer.num_rows).all()
    check_data(fewer)
    assert len(expand(fit(fewer, "lr"), fewer, "k0", size=5)) == 5


# Faults -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["entries_of", "fsync", "write_manifest", "remove_unlisted"])
def test_an_addition_that_is_killed_leaves_the_old_data_or_the_new(data, monkeypatch, place):
    """The last place is where files of the earlier data are removed."""
    new = open_dataset(shutil.copytree(data.folder, data.folder.parent / "new"))
    expected = add(new, campaigns=NEW, examples=frame([("k9", 3, 1, 1, 0)])).digest
    calls, real = [], getattr(storage, place)

    def killed(*arguments, **options):
        calls.append(place)
        if len(calls) == {"fsync": 3}.get(place, 1):
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(storage, place, killed)
        with pytest.raises(KeyboardInterrupt):
            add(data, campaigns=NEW, examples=frame([("k9", 3, 1, 1, 0)]))
    left = open_dataset(data.folder)
    check_data(left)
    assert left.digest == (expected if place == "remove_unlisted" else data.digest)
    again = add(left, campaigns=NEW, examples=frame([("k9", 3, 1, 1, 0)]))
    assert again.digest == expected
    assert sorted(files_of(again)) == sorted(files_of(open_dataset(new.folder)))
    write_dataset(again, data.folder)  # what is left is no foreign file


def test_readers_see_whole_data_during_additions(data):
    """A reader opens and verifies the folder while it changes; two writers do not mix."""
    seen, stop, failures = set(), threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                own = open_dataset(data.folder)
                check_data(own)
                seen.add(own.digest)
            except Exception as error:
                failures.append(error)

    digests = {data.digest}
    with ThreadPoolExecutor() as threads:
        reader = threads.submit(read)
        try:
            for number in range(8):
                topic = NEW.with_columns(topic=pl.lit(f"topic {number}"))
                rows = frame([("k9", number, 1, 1, 0)])
                digests.add(add(data, campaigns=topic, examples=rows).digest)
        finally:
            stop.set()
    reader.result()
    assert not failures, [repr(own)[:300] for own in failures[:3]]
    assert seen <= digests
    with locked(data.folder), ThreadPoolExecutor() as threads, pytest.raises(Busy):
        threads.submit(add, data).result()


@pytest.mark.parametrize(
    ("campaigns", "examples", "said"),
    [
        (None, frame([("k9", 1, 1, 1, 0)]), "examples: row 1: campaign_id is 'k9', expected the"),
        (None, frame([("k0", 1, 3, 1, 0)]), "examples: row 1: label is 3, expected 0 or 1"),
        (NEW.drop("topic"), None, "campaigns: has no column 'topic'"),
        (pl.concat([NEW, NEW]), None, "campaigns: row 3: campaign_id is 'k9', expected one"),
        (NEW.with_columns(budget=pl.lit("much")), None, "campaigns: row 1: budget is 'much'"),
    ],
)
def test_wrong_rows_change_nothing(data, campaigns, examples, said):
    before = files_of(data)
    with pytest.raises(InputError, match=f"^{said}"):
        add(data, campaigns=campaigns, examples=examples)
    assert files_of(data) == before


def test_damaged_data_and_data_in_memory_are_refused(data):
    [path] = data.folder.glob("stage1_label-*")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=f"^{path}: altered since it was written"):
        add(data, examples=frame([("k0", 1, 1, 1, 0)]))
    path.write_bytes(content)
    [path] = data.folder.glob("user_rows-*")
    content = path.read_bytes()
    path.write_bytes(b"x" + content[1:])
    with pytest.raises(InputError, match=f"^{path}: altered since it was written"):
        add(data, examples=frame([("k0", 1, 1, 1, 0)]))
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=f"^{path}: altered since it was written"):
        add(data, examples=frame([("k0", 1, 1, 1, 0)]))
    path.write_bytes(content)
    (data.folder / MANIFEST).unlink()
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        add(data, examples=frame([("k0", 1, 1, 1, 0)]))
    memory = type(data)(**{**vars(data), "folder": None})
    with pytest.raises(InputError, match="is in no folder; prepare it"):
        add(memory, examples=frame([("k0", 1, 1, 1, 0)]))
