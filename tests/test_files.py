"""Files and folders: written whole or not at all, by one process at a time, and sealed."""

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading

import numpy as np
import polars as pl
import pytest
from commands import contents
from damages import largest_file
from hypothesis import given
from hypothesis import strategies as st
from writers import wait_for_end

from metaheac_jax import removing
from metaheac_jax.errors import Busy, InputError
from metaheac_jax.files import (
    inert_frame,
    locked,
    new_directory,
    read_json,
    whole_file,
    without_apostrophe,
    write_text,
)
from metaheac_jax.removing import check_own, remove, remove_unlisted
from metaheac_jax.sealed import (
    keep_config,
    read_sealed,
    read_undisturbed,
    seal,
    write_manifest,
)

MARKER, FORMAT = "marker.json", "metaheac_jax toy 1"


def make(target, **files):
    with new_directory(target, marker=MARKER) as directory:
        for name, text in files.items():
            (directory / name).write_text(text)
        seal(directory, MARKER, {"format": FORMAT}, list(directory.iterdir()))


#: What writes a target, and what it reads as afterwards.
WRITERS = {
    "file": (lambda path, text: write_text(path, text), lambda path: path.read_text()),
    "folder": (lambda path, text: make(path, a=text), lambda path: (path / "a").read_text()),
}
either = pytest.mark.parametrize("kind", WRITERS)


# Whole or absent --------------------------------------------------------------------------------


@either
@pytest.mark.parametrize("before", [None, "old"])
def test_a_failing_block_leaves_the_old_target_and_nothing_else(tmp_path, kind, before):
    write, read = WRITERS[kind]
    if before:
        write(tmp_path / "out", before)
    opened = whole_file(tmp_path / "out")
    if kind == "folder":
        opened = new_directory(tmp_path / "out", marker=MARKER)
    with pytest.raises(KeyboardInterrupt), opened as temporary:  # noqa: PT012
        (temporary / "half" if kind == "folder" else temporary).write_text("half")
        raise KeyboardInterrupt
    assert contents(tmp_path) == ({"out"} if before else set())
    assert not before or read(tmp_path / "out") == before
    write(tmp_path / "out", "new")
    assert read(tmp_path / "out") == "new"
    assert contents(tmp_path) == {"out"}


#: Starts processes that write a target each; the n-th kills itself at its n-th change of a folder.
KILLED = """
import os, signal, sys
from pathlib import Path
from metaheac_jax.files import new_directory, write_text
from metaheac_jax.sealed import seal
def write(out):
    if sys.argv[2] == "file":
        write_text(out, "new")
        return
    with new_directory(out, marker="marker.json") as folder:
        (folder / "a").write_text("new")
        seal(folder, "marker.json", {"format": "metaheac_jax toy 1"}, [folder / "a"])
def hit(event, arguments):
    global left
    if event in ("os.rename", "os.mkdir", "os.remove", "os.chmod", "os.rmdir", "shutil.rmtree"):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
for left in range(30):
    if os.fork() == 0:
        out = Path(sys.argv[1], str(left), "out")
        sys.addaudithook(hit)
        write(out)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def run(program, *words):
    """Runs a program with the package; the lines that it prints."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-W", "ignore", "-c", program, *map(str, words)]
    return subprocess.run(
        words, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.split()


@either
def test_a_kill_at_any_call_leaves_the_old_target_or_the_new_one(tmp_path, kind):
    """Between two renames, a folder is absent; the next writer removes what is left beside it."""
    write, read = WRITERS[kind]
    outs = [tmp_path / str(number) / "out" for number in range(30)]
    for out in outs:
        out.parent.mkdir()
        write(out, "old")
    codes, seen = run(KILLED, tmp_path, kind), []
    killed = codes.count(str(-signal.SIGKILL))
    assert 3 <= killed < 29
    assert codes == [str(-signal.SIGKILL)] * killed + ["0"] * (30 - killed)
    for out in outs:
        seen.append(read(out) if out.exists() else "absent")
        with locked(out):  # the next writer finds the old one if there is no new one
            assert read(out) == {"absent": "old"}.get(seen[-1], seen[-1])
        write(out, "newer")
        assert read(out) == "newer"
        assert contents(out.parent) == {"out"}
    assert seen.count("absent") == (1 if kind == "folder" else 0)
    present = [own for own in seen if own != "absent"]
    assert present == sorted(present, reverse=True)
    assert {"old", "new"} <= set(seen[:killed])


def fill(path, form):
    if form == "text":
        path.write_text("x" * 100_000)
    else:  # polars has another error for a full disk
        pl.DataFrame({"a": np.random.default_rng(0).random(9000)}).lazy().sink_parquet(path)


@either
@pytest.mark.parametrize("form", ["text", "parquet"])
def test_a_full_disk_leaves_the_old_target(tmp_path, kind, form):
    out = tmp_path / "out"
    write, read = WRITERS[kind]
    write(out, "old")
    opened = new_directory(out, marker=MARKER) if kind == "folder" else whole_file(out)
    with (
        pytest.raises(OSError, match=f"^{out}: cannot be written .*File too large"),
        largest_file(1000),
        opened as new,
    ):
        fill(new / "table" if kind == "folder" else new, form)
    assert read(out) == "old"
    assert contents(tmp_path) == {"out"}


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_what_is_replaced_keeps_its_permissions(tmp_path, mode):
    """A folder of user ids that others may not read stays so, also while it is written."""
    make(tmp_path / "out")
    (tmp_path / "out").chmod(mode)
    with new_directory(tmp_path / "out", marker=MARKER) as directory:
        assert stat.S_IMODE(directory.stat().st_mode) == mode
        seal(directory, MARKER, {"format": FORMAT}, [])
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == mode
    write_text(tmp_path / "a.csv", "old")
    (tmp_path / "a.csv").chmod(mode & 0o666)
    with whole_file(tmp_path / "a.csv") as file:
        assert stat.S_IMODE(file.stat().st_mode) == mode & 0o666
    assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == mode & 0o666


def test_what_is_not_ours_is_not_replaced(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("ten years")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / MARKER).write_text('{"format": "another program"}')
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    before = contents(tmp_path)
    for name in ("mine/thesis.tex", f"other/{MARKER}", "file", "pipe"):
        with pytest.raises(InputError, match=f"{name}: is listed in no intact {MARKER}.*move that"):
            make(tmp_path / name.partition("/")[0])
    for name in ("mine", "pipe"):
        with pytest.raises(InputError, match=f"{name}: is not a regular file"):
            write_text(tmp_path / name, "text")
    assert contents(tmp_path) == before
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "ten years"
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    assert contents(tmp_path / "empty") == {MARKER}


#: Makes something at a path that is not of the package.
FOREIGN = {
    "file": lambda path: path.write_text("ten years"),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to(path.parent.parent),
    "folder of ours": lambda path: make(path, b="ten years"),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["mine", ".mine.lock", "7", "a-0123456789abcdef.npy", "deep/mine"])
def test_a_folder_with_something_of_others_stays(tmp_path, kind, name):
    out = tmp_path / "out"
    with new_directory(out, marker=MARKER) as new:
        (new / "deep").mkdir()
        (new / "deep" / "a").write_text("old")
        seal(new, MARKER, {"format": FORMAT}, [new / "deep" / "a"])
    FOREIGN[kind](out / name)
    before = everything(tmp_path)
    with pytest.raises(InputError, match=rf"{name}(/b)?: is listed in no intact {MARKER}"):
        make(out)
    assert not remove(out)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("part", ["deep", "deep/a", MARKER])
def test_a_link_in_the_place_of_a_part_is_not_ours(tmp_path, part):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    with new_directory(out, marker=MARKER) as new:
        (new / "deep").mkdir()
        (new / "deep" / "a").write_text("old")
        seal(new, MARKER, {"format": FORMAT}, [new / "deep" / "a"])
    (out / part).rename(elsewhere)
    (out / part).symlink_to(elsewhere)
    before = everything(tmp_path)
    with pytest.raises(InputError, match="is listed in no intact"):
        make(out)
    assert not remove(out)
    assert everything(tmp_path) == before


def test_a_link_to_a_folder_of_ours_is_not_ours(tmp_path):
    make(tmp_path / "elsewhere")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="out: is listed in no intact"):
        check_own(tmp_path / "out")


@pytest.mark.parametrize("foreign", [None, "7/mine", "member/mine", "member/7/mine", "2024/mine"])
def test_the_folder_of_a_training_has_checkpoints_alone(tmp_path, foreign):
    """Those of a member of an ensemble are in a folder of its own."""
    folder = tmp_path / "training"
    keep(folder / "run.json", CONFIG)
    for name in ("7", "member/7", "member/12"):
        with new_directory(folder / name, marker="checkpoint.json") as new:
            (new / "state").write_text("weights")
            seal(new, "checkpoint.json", {"format": FORMAT}, [new / "state"])
    (folder / "member" / ".13.metaheac-new").mkdir()  # of a killed process
    if foreign is None:
        check_own(folder, "run.json")
        assert remove(folder)
        assert contents(tmp_path) == set()
        return
    (folder / foreign).parent.mkdir(exist_ok=True)
    (folder / foreign).write_text("ten years")
    before = everything(folder)
    with pytest.raises(InputError, match=f"{foreign}: is listed in no intact run.json"):
        check_own(folder, "run.json")
    assert not remove(folder)
    assert everything(folder) == before


def everything(folder):
    """What is in a folder and in folders in it: the text of each file, by name."""
    paths = sorted(folder.rglob("*"))
    return {path: path.read_text() if path.is_file() else path.lstat().st_mode for path in paths}


def test_what_is_put_into_a_folder_while_it_is_replaced_stays(tmp_path):
    make(tmp_path / "out", a="old")
    opened = new_directory(tmp_path / "out", marker=MARKER)
    with pytest.raises(InputError, match="out/mine: is listed in no"), opened:
        (tmp_path / "out" / "mine").write_text("ten years")
    assert contents(tmp_path) == {"out"}
    assert contents(tmp_path / "out") == {"a", "mine", MARKER}


@pytest.mark.parametrize("forged", ["digest", "format", "files", "outside", "link"])
def test_a_forged_manifest_gives_nothing_away(tmp_path, forged):
    entry = {"bytes": 9, "sha256": "0" * 64}
    (tmp_path / "thesis.tex").write_text("ten years")
    make(tmp_path / "out", a="mine")
    path = tmp_path / "out" / MARKER
    body = json.loads(path.read_text())
    del body["digest"]
    if forged == "digest":
        path.write_text(json.dumps(body | {"digest": "0" * 64}))
    elif forged == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        changes = {"format": {"format": "another"}, "files": {"files": ["a"]}}
        changes["outside"] = {
            "files": {"../thesis.tex": entry, str(tmp_path / "thesis.tex"): entry}
        }
        write_manifest(path, body | changes[forged])
    before = everything(tmp_path)
    with pytest.raises(InputError, match="out/a: is listed in no intact"):
        make(tmp_path / "out")
    assert everything(tmp_path) == before


def test_a_file_with_its_digest_in_its_name_is_ours(tmp_path):
    """A killed `add` leaves columns that no manifest lists."""
    make(tmp_path / "out", a="old")
    digest = hashlib.sha256(b"column").hexdigest()
    left = tmp_path / "out" / f"values-{digest[:16]}.npy"
    left.write_bytes(b"column")
    (tmp_path / "out" / "mine").write_text("ten years")
    remove_unlisted(tmp_path / "out")
    assert contents(tmp_path / "out") == {"a", "mine", MARKER}
    (tmp_path / "out" / "mine").unlink()
    left.write_bytes(b"column")
    make(tmp_path / "out", a="new")
    assert contents(tmp_path / "out") == {"a", MARKER}


def test_a_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "link.csv").symlink_to("deep/a.csv")
    for text in ("new", "replaced"):
        write_text(tmp_path / "link.csv", text)
        assert (tmp_path / "deep" / "a.csv").read_text() == text
    assert (tmp_path / "link.csv").is_symlink()


# Locks ------------------------------------------------------------------------------------------


@either
def test_a_second_writer_is_refused(tmp_path, writers, kind):
    with writers.of(tmp_path / "out") as process:
        with pytest.raises(Busy, match="out: another process is writing it; wait"):
            WRITERS[kind][0](tmp_path / "out", "new")
        assert contents(tmp_path) == {".out.lock"}
        make(tmp_path / "other")
        os.kill(process, signal.SIGKILL)
        wait_for_end(process)
        WRITERS[kind][0](tmp_path / "out", "new")  # the lock of a killed process is free
    assert contents(tmp_path) == {"out", "other"}


@either
@pytest.mark.parametrize("planted", [".out.lock", ".out.metaheac-new", ".out.metaheac-old"])
@pytest.mark.parametrize("link", ["symlink", "hard link", "dangling", "folder"])
def test_no_planted_link_is_followed(tmp_path, kind, planted, link):
    """The file that it leads to stays as it is; a symbolic link as the lock is refused."""
    precious = tmp_path / "precious"
    precious.mkdir() if link == "folder" else precious.write_text("ten years")
    if link == "folder":
        (precious / "thesis").write_text("ten years")
    plant = tmp_path / planted
    if link == "hard link":
        plant.hardlink_to(precious)
    else:
        plant.symlink_to(tmp_path / "none" if link == "dangling" else precious)
    write, read = WRITERS[kind]
    if planted == ".out.lock" and link != "hard link":
        with pytest.raises(OSError, match=r"symbolic links: .*\.out\.lock"):
            write(tmp_path / "out", "new")
        plant.unlink()
    write(tmp_path / "out", "new")
    assert read(tmp_path / "out") == "new"
    found = precious / "thesis" if link == "folder" else precious
    assert found.read_text() == "ten years"
    kept = {planted} if planted == ".out.lock" and link == "hard link" else set()
    assert contents(tmp_path) == {"precious", "out"} | kept


def test_a_thread_may_take_what_it_holds_and_another_may_not(tmp_path):
    refused = []

    def other():
        try:
            make(tmp_path / "out")
        except Busy as error:
            refused.append(error)

    with locked(tmp_path / "out"):
        with locked(tmp_path / "in" / ".." / "out"):
            make(tmp_path / "out")
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1


#: Four processes that increase a number in a file 60 times each; one that is busy tries again.
COUNTING = """
import os, sys, time
from pathlib import Path
from metaheac_jax.errors import Busy
from metaheac_jax.files import locked, write_text
out, done = Path(sys.argv[1]), 0
children = [os.fork() for _ in range(2)]
while done < 60:
    try:
        with locked(out):
            number = int(out.read_text())
            time.sleep(0.0005)
            write_text(out, str(number + 1))
            done += 1
    except Busy:
        time.sleep(0.0002)
for _ in filter(None, children):
    os.wait()
"""


def test_writers_that_take_turns_lose_no_write(tmp_path):
    """Though each removes the lock file that others may have opened."""
    (tmp_path / "out").write_text("0")
    run(COUNTING, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "240"
    assert contents(tmp_path) == {"out"}


# Contents ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Expecting value"),
        (b"[" * 100_000, "recursion"),
        (b"9" * 5000, "4300 digits"),
        (b'"\xff"', "can't decode byte 0xff"),
        (b'[{"a": 1, "b": 2, "a": 3}]', "the key 'a' is given twice; give it once"),
    ],
)
def test_invalid_json_is_named(tmp_path, content, words):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    path.write_bytes(b'\xef\xbb\xbf{"a": [1, "\xc3\xa9"]}')  # as some editors save it
    assert read_json(path) == {"a": [1, "é"]}


def test_a_spreadsheet_runs_no_cell():
    cells = ["=1+1", "+SUM(A1)", "-2+3", "@x", "\t=1", "'=1", "''@", "a=1", "'a", "-17", "", None]
    frame = inert_frame(pl.DataFrame({"name": cells, "number": [-1] * 12}))
    assert frame["name"].to_list() == [*(f"'{own}" for own in cells[:7]), *cells[7:]]
    assert frame["number"].to_list() == [-1] * 12


@given(st.lists(st.text("=+-@'a1"), min_size=1))
def test_texts_are_read_back_from_a_spreadsheets_file(texts):
    frame = pl.DataFrame({"name": texts})
    assert inert_frame(frame).select(without_apostrophe(pl.col("name"))).equals(frame)


# Seals ------------------------------------------------------------------------------------------


def sealed(directory):
    (directory / "deep").mkdir(parents=True)
    files = [directory / "text", directory / "deep" / "bytes"]
    files[0].write_text("text")
    files[1].write_bytes(bytes(range(256)))
    return seal(directory, MARKER, {"format": FORMAT, "pair": (1, 2)}, files)


def read(directory, **options):
    return read_sealed(
        directory, MARKER, format=FORMAT, remedy="make it again", content={}, **options
    )


@pytest.mark.parametrize("file", ["text", "deep/bytes", MARKER])
def test_every_byte_counts(tmp_path, file):
    sealed(tmp_path)
    path = tmp_path / file
    content = path.read_bytes()
    for damaged in (
        *(content[:at] + bytes([byte ^ 1]) + content[at + 1 :] for at, byte in enumerate(content)),
        content[:-2], content + b"x", b"",
    ):  # fmt: skip
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="make it again") as caught:
            read(tmp_path)
        assert str(tmp_path) in str(caught.value)
    path.unlink()
    with pytest.raises(InputError, match=f"{path.name}.*make it again"):
        read(tmp_path)


def test_what_was_replaced_while_it_was_read_is_read_again(tmp_path):
    """Two of three attempts are disturbed: one fails, and one mixes files of two folders."""
    folder, seen = tmp_path / "a", []

    def put(name, **body):
        with new_directory(folder, marker=MARKER) as directory:
            (directory / name).write_text(name)
            seal(directory, MARKER, {"format": FORMAT, **body}, [directory / name])

    def read_names():
        body = read(folder, verify=False)
        seen.append(body["number"])
        if len(seen) < 3:
            put("other" if len(seen) == 1 else "first", number=len(seen))
        [name] = body["files"]
        return body["number"], (folder / name).read_text()

    put("first", number=0)
    assert read_undisturbed(folder, MARKER, read_names) == (2, "first")
    assert seen == [0, 1, 2]


def read_a(folder):
    """A text, as a command reads a folder."""

    def text():
        read(folder)
        return (folder / "a").read_text()

    return read_undisturbed(folder, MARKER, text)


def test_a_reader_puts_back_what_a_killed_writer_was_replacing(tmp_path):
    make(tmp_path / "out", a="old")
    (tmp_path / "out").rename(tmp_path / ".out.metaheac-old")
    (tmp_path / ".out.metaheac-new").mkdir()
    assert read_a(tmp_path / "out") == "old"
    assert contents(tmp_path) == {"out"}
    with pytest.raises(InputError, match=f"none: has no {MARKER}"):
        read_a(tmp_path / "none")


def test_a_reader_waits_between_the_two_renames_of_a_writer(tmp_path, writers, monkeypatch):
    out, waits = tmp_path / "out", []
    make(out, a="old")
    make(tmp_path / "new", a="new")

    def wait(seconds):
        waits.append(seconds)
        if len(waits) >= 3 and not out.exists():  # other threads may have waited, too
            (tmp_path / "new").rename(out)

    monkeypatch.setattr("metaheac_jax.files.time.sleep", wait)
    with writers.of(out):
        out.rename(tmp_path / ".out.metaheac-old")
        assert read_a(out) == "new"
        assert len(waits) >= 3


def test_who_may_not_lock_a_folder_is_told_that_it_is_being_replaced(tmp_path, monkeypatch):
    def refuse(target):
        raise PermissionError(13, "Permission denied", str(target))

    make(tmp_path / ".out.metaheac-old")
    monkeypatch.setattr("metaheac_jax.files.locked", refuse)
    with pytest.raises(Busy, match="out: is being replaced by another user"):
        read_a(tmp_path / "out")


# Configurations of runs -------------------------------------------------------------------------

CONFIG = {"seed": 0, "data": {"name": "toy", "sha256": "aa"}, "jax": "0.10.1", "sizes": (1, 2)}


def keep(path, config, place=None):
    keep_config(path, config, place or {"processor": "A"}, restart="start afresh")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 1}, "another seed (0, now 1)"),
        ({"jax": "0.11.1"}, "another jax (0.10.1, now 0.11.1)"),
        ({"data": {"name": "toy", "sha256": "bb"}, "flax": "1"}, "flax (None, now 1)"),
    ],
)
def test_what_changed_is_named(tmp_path, changes, told):
    path = tmp_path / "deep" / "config.json"
    keep(path, CONFIG)
    before = path.read_bytes()
    with pytest.raises(InputError, match="use the same, or start afresh") as caught:
        keep(path, CONFIG | changes)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)
    keep(path, CONFIG)
    assert path.read_bytes() == before


def test_another_processor_is_told_and_not_refused(tmp_path):
    path, changed = tmp_path / "config.json", {"processor": "B"}
    keep(path, CONFIG)
    told = r"config\.json: .* processor \(A, now B\); the last digits"
    with pytest.warns(UserWarning, match=told):
        keep(path, CONFIG, changed)
    refused = pytest.raises(InputError, match=r"another seed \(0, now 1\); ")
    with pytest.warns(UserWarning, match=told), refused:
        keep(path, CONFIG | {"seed": 1}, changed)


def test_a_lock_of_others_stays(tmp_path):
    (tmp_path / ".out.lock").write_text("theirs")
    write_text(tmp_path / "out", "ours")
    assert (tmp_path / ".out.lock").read_text() == "theirs"
    (tmp_path / ".other.lock").mkdir()
    with pytest.raises(InputError, match=r"\.other\.lock: is a folder.*move it away"):
        write_text(tmp_path / "other", "ours")


def test_what_comes_into_a_folder_while_it_is_removed_stays(tmp_path, monkeypatch):
    make(tmp_path / "out", a="a")
    real = removing.foreign

    def late(folder, *given):
        found = real(folder, *given)
        if folder.name == "out":
            (folder / "notes.txt").write_text("theirs")
        return found

    monkeypatch.setattr(removing, "foreign", late)
    assert not removing.remove(tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "theirs"
    assert (tmp_path / "out" / "a").read_text() == "a"
