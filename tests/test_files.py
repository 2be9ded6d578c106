"""Files and directories that are written whole or not at all, and seals that notice changes."""

import errno
import json
import os
import stat

import pytest
from commands import contents
from hypothesis import given, settings
from hypothesis import strategies as st

from metaheac_jax.errors import InputError
from metaheac_jax.files import new_directory, read_sealed, seal, write_json, write_text, write_whole

# One file ---------------------------------------------------------------------------------------


def fail_in(path):
    with write_whole(path) as file:
        file.write("half of ")
        raise KeyboardInterrupt


def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(KeyboardInterrupt):
        fail_in(path)
    assert contents(tmp_path) == set()
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt):
        fail_in(path)
    assert path.read_text() == "old"
    assert contents(tmp_path) == {"a.txt"}
    write_text(path, "new")
    assert path.read_text() == "new"
    assert contents(tmp_path) == {"a.txt"}


def test_what_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": 2, "b": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert contents(tmp_path) == {"a.json"}


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert contents(tmp_path) == {"a.txt"}


# A directory ------------------------------------------------------------------------------------


def make(target, **files):
    with new_directory(target, marker="marker") as directory:
        for name, text in {"marker": "", **files}.items():
            (directory / name).write_text(text)


def test_a_new_directory_replaces_an_older_one_whole(tmp_path):
    target = tmp_path / "a" / "b"
    make(target, old="1", both="1")
    make(target, new="2", both="2")
    assert contents(target) == {"marker", "new", "both"}
    assert (target / "both").read_text() == "2"
    assert contents(target.parent) == {"b"}


def test_a_failing_block_leaves_the_older_directory(tmp_path):
    make(tmp_path / "out", old="1")

    def fail():
        with new_directory(tmp_path / "out", marker="marker") as directory:
            (directory / "half").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert contents(tmp_path) == {"out"}
    assert contents(tmp_path / "out") == {"marker", "old"}


def test_a_target_that_is_something_else_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("ten years")
    (tmp_path / "file").write_text("mine")
    for name in ("mine", "file"):
        with pytest.raises(InputError, match=f"{name}: exists and has no marker, so it is not "):
            make(tmp_path / name)
    assert contents(tmp_path) == {"mine", "file"}
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "ten years"
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    assert contents(tmp_path / "empty") == {"marker"}


def test_a_new_directory_is_as_open_as_any(tmp_path):
    (tmp_path / "any").mkdir()
    make(tmp_path / "new")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("any", "new")}
    assert len(modes) == 1


# A seal -----------------------------------------------------------------------------------------


def sealed(directory):
    """A sealed directory with an empty file, one in a folder, and one of some bytes."""
    (directory / "in").mkdir(parents=True)
    files = {"empty": b"", "in/side": b"side", "bytes": bytes(range(256))}
    for name, content in files.items():
        (directory / name).write_bytes(content)
    seal(
        directory,
        "seal.json",
        {"format": "a seal", "pair": (1, 2)},
        [directory / name for name in files],
    )
    return directory


def read(directory, **options):
    return read_sealed(directory, "seal.json", format="a seal", remedy="seal it again", **options)


def test_what_was_sealed_is_read(tmp_path):
    body = read(sealed(tmp_path / "a"))
    assert (body["format"], body["pair"]) == ("a seal", [1, 2])
    assert list(body["files"]) == ["empty", "in/side", "bytes"]
    assert body["files"]["in/side"]["bytes"] == 4
    (tmp_path / "a" / "unnamed").write_text("is of no concern")
    assert read(tmp_path / "a") == body


@given(position=st.integers(0, 255), bit=st.integers(0, 7))
@settings(max_examples=20, deadline=None)
def test_any_flipped_bit_is_noticed(tmp_path_factory, position, bit):
    directory = sealed(tmp_path_factory.mktemp("flipped") / "a")
    path = directory / "bytes"
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(InputError, match="bytes: altered since it was written; seal it again"):
        read(directory)
    read(directory, verify=False)  # the size is right


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("in/side", None, "in/side: missing, though seal.json names it"),
        ("in/side", b"sid", "in/side: 3 bytes, expected 4"),
        ("in/side", b"sides", "in/side: 5 bytes, expected 4"),
        ("empty", b"x", "empty: 1 bytes, expected 0"),
        ("seal.json", None, "a: has no seal.json"),
        ("seal.json", b"", "seal.json: not valid JSON"),
        ("seal.json", b"[1]", "seal.json: not valid JSON"),
        ("seal.json", b'{"format": "another"}', "seal.json: format 'another', expected 'a seal'"),
        ("seal.json", b'{"format": "a seal"}', "seal.json: altered since it was written"),
    ],
)
def test_a_broken_seal_is_named_in_one_line(tmp_path, name, content, words):
    directory = sealed(tmp_path / "a")
    (directory / name).unlink()
    if content is not None:
        (directory / name).write_bytes(content)
    for verify in (True, False):
        with pytest.raises(InputError) as caught:
            read(directory, verify=verify)
        assert words in str(caught.value)
        assert str(caught.value).endswith("; seal it again")
        assert "\n" not in str(caught.value)


def test_any_change_of_the_content_is_noticed(tmp_path):
    directory = sealed(tmp_path / "a")
    path = directory / "seal.json"
    body = json.loads(path.read_text())
    changes = [{"pair": [2, 1]}, {"more": 0}, {"files": {}}, {"digest": "0"}, {"digest": None}]
    for change in changes:
        path.write_text(json.dumps({**body, **change}))
        with pytest.raises(InputError, match="altered since it was written"):
            read(directory)
    path.write_text(json.dumps(body))  # in another layout it says the same
    read(directory)


def test_checksums_report_the_bytes_read(tmp_path):
    calls = []
    directory = sealed(tmp_path / "a")
    read(directory, progress=lambda *call: calls.append(call))
    assert calls == [("checksums", 4, 260), ("checksums", 260, 260)]
