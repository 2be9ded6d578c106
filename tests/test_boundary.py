"""What is read: plain data and arrays are as declared, and nothing is read outside of a folder."""

import gzip
import json
import os

import numpy as np
import pytest
from tables_world import SCHEMA, world, write

from metaheac_jax.boundary import COUNT, Column, check_arrays, check_plain, read_archive, read_array
from metaheac_jax.data.preparing import prepare
from metaheac_jax.data.storage import MANIFEST, open_dataset
from metaheac_jax.data.table_file import Table
from metaheac_jax.errors import InputError
from metaheac_jax.sealed import digest_of

PATTERN = {"name": str, "count": COUNT, "ids": [(int, str)], "files": {str: {"bytes": COUNT}}}
GOOD = {"name": "x", "count": 3, "ids": [-1, "a"], "files": {"b": {"bytes": 0}}, "other": None}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"name": 1}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"count": -1}, "count"),
        ({"count": True}, "count"),
        ({"count": 1.0}, "count"),
        ({"ids": {}}, "ids"),
        ({"ids": [1, 2**63]}, "ids, 2"),
        ({"files": []}, "files"),
        ({"files": {"b": {}}}, "files: b: has no 'bytes'"),
    ],
)
def test_plain_data_of_another_structure_are_refused(change, place):
    check_plain(GOOD, PATTERN, "m.json", "make it again")
    with pytest.raises(InputError, match=rf"^m\.json: {place}.*make it again$"):
        check_plain({**GOOD, **change}, PATTERN, "m.json", "make it again")


COLUMNS = {
    "values": Column("i8 U", ("V",), order=np.less),
    "rows": Column("i4", ("U", 2), 0, "V + 1"),
    "weights": Column("f4", ("U",)),
}
ARRAYS = {
    "rows": np.array([[0, 2], [1, 0], [2, 2]], "i4"),
    "values": np.array(["a", "é"]),
    "weights": np.ones(3, "f4"),
}


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("rows", ARRAYS["rows"].astype(">i4")),
        ("rows", ARRAYS["rows"].astype("i8")),
        ("rows", ARRAYS["rows"][:, :1]),
        ("rows", ARRAYS["rows"].ravel()),
        ("rows", ARRAYS["rows"] + 1),
        ("rows", ARRAYS["rows"] - 1),
        ("values", ARRAYS["values"][::-1]),
        ("values", np.array([0x61, 0xD800], "u4").view("U1")),
        ("values", np.array([0x61, 0x110000], "u4").view("U1")),
        ("values", np.array(["a", 1], object)),
        ("weights", ARRAYS["weights"][:2]),
        ("weights", np.array([1, np.nan, 1], "f4")),
        ("weights", np.array([1, np.inf, 1], "f4")),
    ],
)
def test_arrays_that_are_not_as_declared_are_refused(name, array):
    check_arrays(ARRAYS, COLUMNS, "folder", "make it again")
    with pytest.raises(InputError, match=f"^folder: {name} .*make it again$"):
        check_arrays({**ARRAYS, name: array}, COLUMNS, "folder", "make it again")


@pytest.mark.parametrize("texts", [[b"\xff"], [b"a\xc3", b"\xa9b"], [b"\xc3"]])
def test_bytes_are_unicode_one_by_one(texts):
    ids = {"ids": Column("S", ("n",))}
    check_arrays({"ids": np.array(["é".encode(), b"a"])}, ids, "folder", "again")
    with pytest.raises(InputError, match="ids has a value that is out of range"):
        check_arrays({"ids": np.array(texts)}, ids, "folder", "again")


def test_a_file_without_an_array_is_refused(tmp_path):
    path = tmp_path / "a.npy"
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<i4', 'fortran_order': False, 'shape': (%s,), }"
    bad = [b"", bytes(99), *((header % n).ljust(127) + b"\n" for n in (b"-1", b"'a'", b"9" * 12))]
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npy: has no array; again"):
            read_array(path, "again")
        with pytest.raises(InputError, match="z: has no arrays; again"):
            read_archive(content, "z", "again")
    np.savez_compressed(tmp_path / "b.npz", a=np.zeros(1 << 20))
    with pytest.raises(InputError, match="z: has no arrays; again"):
        read_archive((tmp_path / "b.npz").read_bytes(), "z", "again")


@pytest.mark.parametrize("way", ["..", "absolute", "link", "folder", "fifo"])
def test_nothing_is_read_outside_of_a_folder(tmp_path, way):
    data = prepare(write(tmp_path / "in", *world()), tmp_path / "data", schema=SCHEMA)
    body = json.loads((data.folder / MANIFEST).read_text())
    name = next(own for own in body["files"] if own.startswith("user_key"))
    outside, new = tmp_path / "secret.npy", name
    (data.folder / name).rename(outside)
    if way == "link":
        (data.folder / name).symlink_to(outside)
    elif way == "folder":
        (data.folder / "way").symlink_to(tmp_path)
        new = "way/secret.npy"
    elif way == "fifo":
        os.mkfifo(data.folder / name)
    else:
        new = "../secret.npy" if way == ".." else str(outside)
    body["files"][new] = body["files"].pop(name)
    del body["digest"]
    (data.folder / MANIFEST).write_text(json.dumps({**body, "digest": digest_of(body)}))
    with pytest.raises(InputError, match=r"missing|names a file elsewhere"):
        open_dataset(data.folder)


def test_what_cannot_be_read_again_replaces_no_data(tmp_path, monkeypatch):
    tables = write(tmp_path / "in", *world())
    before = prepare(tables, tmp_path / "data", schema=SCHEMA).digest
    monkeypatch.setattr("metaheac_jax.data.storage.check_arrays", _refuse)
    with pytest.raises(InputError, match="unreadable"):
        prepare(tables, tmp_path / "data", schema=SCHEMA)
    monkeypatch.undo()
    assert open_dataset(tmp_path / "data").digest == before


def _refuse(*_, **__):
    raise InputError("unreadable")


def test_a_table_that_becomes_far_larger_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("metaheac_jax.data.table_file._ANY_SIZE", 1 << 12)
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a\n" + b"1\n" * (1 << 18)))
    with pytest.raises(InputError, match=rf"^{path}: has over .* decompress it or save it as"):
        Table(path)
    path.write_bytes(gzip.compress(b"a\n" + b"\n".join(b"%d" % n for n in range(1 << 14))))
    assert Table(path).names == ["a"]
    path.rename(tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"t\.csv: is compressed; name it \.csv\.gz"):
        Table(tmp_path / "t.csv")


@pytest.mark.parametrize("title", [b"", b"\n", b"\x1b[2J", b"a\x07\nb"])
def test_a_title_may_be_empty_and_has_no_control_characters(tmp_path, title):
    (write(tmp_path / "in", *world()) / "SIMULATED").write_bytes(title)
    name = prepare(tmp_path / "in", tmp_path / "data", schema=SCHEMA).name
    assert name.isprintable()
