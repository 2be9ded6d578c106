"""Files and directories: written whole or not at all, by one process at a time, and sealed."""

import errno
import fcntl
import json
import os
import signal
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from commands import contents, full_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import release, wait_for_end

from metaheac_jax import files
from metaheac_jax.errors import Busy, InputError
from metaheac_jax.files import (
    locked,
    make_once,
    new_array,
    new_directory,
    read_json,
    write_json,
    write_text,
    write_whole,
    writer_of,
)
from metaheac_jax.sealed import Parent, read_sealed, read_undisturbed, seal

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


def test_data_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": 2, "b": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert contents(tmp_path) == {"a.json"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[" * 100_000, "recursion"),
        (b"9" * 5000, "4300 digits"),
        (b'"\\ud800"', "surrogates not allowed"),
        (b'"\xff"', "can't decode byte 0xff"),
    ],
)
def test_invalid_json_is_named(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: not valid JSON (")
    assert str(caught.value).endswith("); fix the file")
    assert words in str(caught.value)
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, "\xc3\xa9"]}')  # as some editors save it
    assert read_json(path) == {"a": [1, "é"]}


def test_a_pipe_is_not_read_as_json(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"a\.json: is not a regular file, so it cannot be read"):
        read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_a_pipe_or_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null"), tmp_path):
        with pytest.raises(InputError, match="is not a regular file, so it is not replaced"):
            write_text(path, "text")
    assert contents(tmp_path) == {"pipe"}


def test_a_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "link.csv").symlink_to("deep/a.csv")
    for text in ("new", "replaced"):
        write_text(tmp_path / "link.csv", text)
        assert (tmp_path / "deep" / "a.csv").read_text() == text
    assert (tmp_path / "link.csv").is_symlink()
    assert contents(tmp_path / "deep") == {"a.csv"}


def test_a_new_array_has_its_place_on_the_disk(tmp_path):
    """Or a full disk would kill the process that writes to its map."""
    array = new_array(tmp_path / "a.npy", np.int32, (1000, 3))
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 12_000
    array[:] = 7
    array.flush()
    assert (np.load(tmp_path / "a.npy") == 7).all()


def test_a_file_is_on_disk_before_it_replaces_the_older_one(tmp_path, monkeypatch):
    """And its folder, which has its name, afterwards."""
    path, flushed = tmp_path / "a.txt", []
    write_text(path, "old")
    monkeypatch.setattr(files, "fsync", lambda flush: flushed.append((flush, path.read_text())))
    write_text(path, "new")
    (temporary, before), after = flushed
    assert files.LEFTOVER.fullmatch(temporary.name)["name"] == "a.txt"
    assert (temporary.parent, before) == (tmp_path, "old")
    assert after == (tmp_path, "new")


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
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


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o770, 0o500])
def test_what_is_replaced_keeps_its_permissions(tmp_path, mode):
    """A folder of user ids that others may not read stays so, also while it is written."""
    make(tmp_path / "out", old="1")
    (tmp_path / "out").chmod(mode)
    with new_directory(tmp_path / "out", marker="marker") as directory:
        assert stat.S_IMODE(directory.stat().st_mode) == mode | 0o700
        (directory / "marker").write_text("")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == mode | 0o700
    write_text(tmp_path / "a.csv", "old")
    (tmp_path / "a.csv").chmod(mode & 0o666)
    with write_whole(tmp_path / "a.csv") as file:
        assert stat.S_IMODE(Path(file.name).stat().st_mode) == (mode & 0o666) | 0o200
    assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == mode & 0o666


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


@pytest.mark.parametrize("name", ["none", "before"])
def test_a_failing_block_leaves_no_parents_that_were_made_for_it(tmp_path, name):
    """A parent that was there before stays, even if it is empty."""
    (tmp_path / "before").mkdir()

    def fail():
        with new_directory(tmp_path / name / "a" / "b" / "out", marker="marker"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert contents(tmp_path) == {"before"}
    assert contents(tmp_path / "before") == set()


def test_a_directory_is_on_disk_before_it_replaces_the_older_one(tmp_path, monkeypatch):
    target, flushed = tmp_path / "out", {}
    make(target, old="1")

    def note(path):
        flushed[path.name] = contents(target)

    monkeypatch.setattr(files, "fsync", note)
    make(target, new="2")
    assert flushed.pop(tmp_path.name) == {"marker", "new"}
    assert len(flushed) == 3  # the two files, and the folder under the name it had before
    assert {"marker", "new"} < set(flushed)
    assert all(there == {"marker", "old"} for there in flushed.values())


def test_a_full_disk_leaves_the_older_directory(tmp_path, monkeypatch):
    make(tmp_path / "out", old="1")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            make(tmp_path / "out", new="2")
    assert contents(tmp_path) == {"out"}
    assert contents(tmp_path / "out") == {"marker", "old"}


def test_a_target_that_is_something_else_stays(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("ten years")
    (tmp_path / "file").write_text("mine")
    for name in ("mine", "file"):
        with pytest.raises(InputError, match=f"{name}: exists and has no marker of this pac"):
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


def test_a_directory_is_replaced_in_one_act_where_the_system_can(tmp_path, monkeypatch):
    """Between two renames a reader would find nothing."""
    make(tmp_path / "out", old="1")
    renamed = []
    monkeypatch.setattr(type(tmp_path), "rename", lambda *paths: renamed.append(paths))
    make(tmp_path / "out", new="2")
    assert not renamed
    assert contents(tmp_path / "out") == {"marker", "new"}
    assert contents(tmp_path) == {"out"}


def test_a_directory_is_replaced_where_the_system_cannot_exchange(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    make(tmp_path / "out", old="1")
    make(tmp_path / "out", new="2")
    assert contents(tmp_path / "out") == {"marker", "new"}
    assert contents(tmp_path) == {"out"}


def test_a_stop_between_two_renames_leaves_the_older_directory(tmp_path, monkeypatch):
    """As of a signal, where the system cannot exchange."""
    make(tmp_path / "out", old="1")
    rename = Path.rename

    def stop(path, target):
        rename(path, target)
        if path.name == "out":
            raise SystemExit(143)

    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(SystemExit):
        make(tmp_path / "out", new="2")
    assert contents(tmp_path / "out") == {"marker", "old"}
    assert contents(tmp_path) == {"out"}


# Locks ------------------------------------------------------------------------------------------


WRITERS = {
    "lock": lambda target: locked(target).__enter__(),
    "directory": make,
    "file": lambda target: write_text(target, "new"),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_second_writer_is_refused_and_told_who_writes(tmp_path, writers, write):
    with writers.of(tmp_path / "out") as process:
        with pytest.raises(Busy) as caught:
            write(tmp_path / "out")
        assert str(caught.value) == (
            f"{tmp_path / 'out'}: process {process} on {os.uname().nodename} (-c fit 'a b' "
            "'model?') is writing it; wait for it, or choose another one"
        )
        assert contents(tmp_path) == {".out.lock"}
        make(tmp_path / "other")


def test_the_lock_of_a_killed_process_is_free(tmp_path, writers):
    with writers.of(tmp_path / "out") as process:
        os.kill(process, signal.SIGKILL)
        wait_for_end(process)
        assert contents(tmp_path) == {".out.lock"}
        make(tmp_path / "out")
    assert contents(tmp_path) == {"out"}


def test_a_lock_is_waited_for_with_a_line(tmp_path, writers):
    told = []
    with writers.of(tmp_path / "out") as process:

        def tell(*call):
            told.append(call)
            release(process)

        with locked(tmp_path / "out", wait=tell):
            wait_for_end(process)
    who = f"process {process} on {os.uname().nodename} ("
    assert told[0][0].startswith(f"wait for {who}")
    assert told[0][1:] == (0, 1)
    assert contents(tmp_path) == set()


def test_a_thread_may_take_what_it_holds_and_another_may_not(tmp_path):
    refused = []

    def other():
        try:
            make(tmp_path / "out")
        except InputError as error:
            refused.append(str(error))

    with locked(tmp_path / "out"):
        with locked(tmp_path / "in" / ".." / "out"):
            make(tmp_path / "out")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} " in refused[0]
    make(tmp_path / "out")


def test_a_lock_file_that_its_holder_has_just_removed_is_no_lock(tmp_path, monkeypatch):
    """Another process may get the lock of a file that is gone, while a third makes a new one."""
    flock, times = fcntl.flock, []

    def late(descriptor, how):
        flock(descriptor, how)
        times.append(how)
        if len(times) == 1:
            (tmp_path / ".out.lock").unlink()

    monkeypatch.setattr(fcntl, "flock", late)
    with locked(tmp_path / "out"):
        assert len(times) == 2
        with (tmp_path / ".out.lock").open() as file, pytest.raises(BlockingIOError):
            flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_that_no_process_has_names_no_writer(tmp_path, writers):
    here = f"process {os.getpid()} on {os.uname().nodename} (fit)"  # the number is used again
    for told in (here, "process 7 on elsewhere (fit)", ""):
        (tmp_path / ".out.lock").write_text(told)
        assert writer_of(tmp_path / "out") is None
    with writers.of(tmp_path / "out") as process:
        assert writer_of(tmp_path / "out").startswith(f"process {process} on ")


def test_a_look_at_the_lock_keeps_no_process_from_writing(tmp_path, monkeypatch):
    with (tmp_path / ".out.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as `writer_of` does
        monkeypatch.setattr(time, "sleep", lambda _: fcntl.flock(file, fcntl.LOCK_UN))
        make(tmp_path / "out")
    assert contents(tmp_path) == {"out"}


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    left = tmp_path / f".out.{'a' * 32}"
    left.mkdir()
    with pytest.warns(UserWarning, match=r"out: its file system has no locks \(No locks available"):
        make(tmp_path / "out")
    assert contents(tmp_path) == {"out", left.name}  # which another process may be writing


def test_what_a_killed_process_left_is_removed_by_its_successor(tmp_path):
    digits = "0123456789abcdef" * 2
    left = {f".out.{digits}", f".out.{digits}.old", f".data.json.{digits}"}
    others = {".out.txt", f".other.{digits}", f"out.{digits}", f".out.{digits[1:]}"}
    for name in left | others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
    (tmp_path / f".data.json.{digits}" / "half").unlink()
    (tmp_path / f".data.json.{digits}").rmdir()
    (tmp_path / f".data.json.{digits}").write_text("{")
    (tmp_path / "out").mkdir()
    make(tmp_path / "out")
    write_json(tmp_path / "data.json", 1)
    assert contents(tmp_path) == others | {"out", "data.json"}


def test_what_cannot_be_removed_keeps_nobody_from_writing(tmp_path, monkeypatch):
    """As a folder of which a reader has a file open, on a network's file system."""
    digits = "0123456789abcdef" * 2
    (tmp_path / f".out.{digits}").mkdir()
    (tmp_path / f".data.json.{digits}").write_text("{")

    def refuse(*_, dir_fd=None):
        raise OSError(errno.EBUSY, "busy")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rmdir", refuse)
        patch.setattr(Path, "unlink", refuse)
        files._remove_leftovers(tmp_path / "out")
        files._remove_leftovers(tmp_path / "data.json")
    make(tmp_path / "out")
    write_json(tmp_path / "data.json", 1)


def test_a_lock_whose_leftovers_fail_is_given_back(tmp_path, monkeypatch):
    def fail(target):
        raise OSError(errno.EIO, "no folder")

    with monkeypatch.context() as patch:
        patch.setattr(files, "_remove_leftovers", fail)
        with pytest.raises(OSError, match="no folder"):
            make(tmp_path / "out")
    make(tmp_path / "out")


def test_a_directory_that_lost_its_name_to_no_successor_gets_it_back(tmp_path):
    """The process was killed between two renames, on a system that cannot exchange."""
    make(tmp_path / "out", old="1")
    (tmp_path / "out").rename(tmp_path / f".out.{'0' * 32}.old")
    with locked(tmp_path / "out"):
        assert contents(tmp_path / "out") == {"marker", "old"}


def test_a_missing_folder_of_a_file_is_not_made(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "no" / "file", "")
    assert contents(tmp_path) == set()


def test_the_root_is_no_place_to_write():
    with pytest.raises(InputError, match="the root of a file system"):
        make("/")


def test_what_a_cache_has_is_made_once(tmp_path, writers):
    target, made = tmp_path / "out", []

    def make_it():
        made.append(1)
        make(target)

    with writers.of(target) as process:

        def tell(what, done, total):
            make_by_name = tmp_path / "made elsewhere"
            make(make_by_name)
            make_by_name.rename(target)  # as the process that was waited for does
            release(process)

        make_once(target, make_it, progress=tell)
    assert not made
    with writers.of(target):  # a reader needs no lock
        make_once(target, make_it, progress=tell)
    assert not made
    make_once(tmp_path / "other", lambda: made.append(2), progress=tell)
    assert made == [2]


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
    assert body["digest"] == json.loads((tmp_path / "a" / "seal.json").read_text())["digest"]
    (tmp_path / "a" / "unnamed").write_text("is of no concern")
    assert read(tmp_path / "a") == body


@given(position=st.integers(0, 255), bit=st.integers(0, 7))
@settings(max_examples=20)
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
        ("seal.json", b"[" * 100_000, "seal.json: not valid JSON"),
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
    # In another layout and another order it says the same.
    path.write_text(json.dumps(dict(reversed(body.items()))))
    read(directory)


def test_a_parent_has_the_name_of_its_folder_however_it_is_given(tmp_path, monkeypatch):
    (tmp_path / "june").mkdir()
    monkeypatch.chdir(tmp_path / "june")
    for folder in (Path(), Path("..") / "june", tmp_path / "june"):
        assert Parent.of(folder, None) == ("june", "")


def test_what_was_replaced_while_it_was_read_is_read_again(tmp_path):
    """Two of three attempts are disturbed: one fails, and one mixes files of two directories."""
    folder, seen = tmp_path / "a", []

    def put(name, **body):
        with new_directory(folder, marker="seal.json") as directory:
            (directory / name).write_text(name)
            seal(
                directory, "seal.json", {"format": "metaheac_jax seal", **body}, [directory / name]
            )

    def read_names():
        body = read_sealed(folder, "seal.json", format="metaheac_jax seal", remedy="", verify=False)
        seen.append(body["number"])
        if len(seen) < 3:
            put("other" if len(seen) == 1 else "first", number=len(seen))
        [name] = body["files"]
        return body["number"], (folder / name).read_text()

    put("first", number=0)
    assert read_undisturbed(folder, "seal.json", read_names) == (2, "first")
    assert seen == [0, 1, 2]


def test_what_is_damaged_is_not_read_for_ever(tmp_path):
    directory, calls = sealed(tmp_path / "a"), []
    (directory / "bytes").unlink()

    def read_it():
        calls.append(1)
        return read(directory)

    with pytest.raises(InputError, match="bytes: missing"):
        read_undisturbed(directory, "seal.json", read_it)
    with pytest.raises(InputError, match=r"has no seal\.json"):
        read_undisturbed(tmp_path / "none", "seal.json", lambda: read(tmp_path / "none"))
    assert calls == [1]


def test_checksums_report_the_bytes_read(tmp_path):
    calls = []
    directory = sealed(tmp_path / "a")
    read(directory, progress=lambda *call: calls.append(call))
    assert calls == [("checksums", 4, 260), ("checksums", 260, 260)]
