"""Disks that are full, out of inodes or read-only, and folders that vanish, at every write.

Where file systems may be mounted, a small one is used; elsewhere the size of files is limited.
"""

import contextlib
import os
import shutil
import subprocess
import threading
import time

from damages import largest_file

from faults.scene import Tally, fingerprint, refusal

PROMISE = "a disk that is full, read-only or gone: one line, exit 2; completed once there is room"


def can_mount(folder):
    """Whether this process may mount file systems."""
    try:
        with mounted(folder / "try"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def mounted(at, options="size=64m"):
    """Mounts a file system in memory on a folder."""
    at.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(at)]
    subprocess.run(words, check=True, capture_output=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)
        shutil.rmtree(at, ignore_errors=True)


def remount(at, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(at)], check=True)


@contextlib.contextmanager
def full(disk, free):
    """Leaves ``free`` bytes free, whatever the disk holds."""
    used = shutil.disk_usage(disk).used
    page = os.sysconf("SC_PAGE_SIZE")
    remount(disk, f"size={max(page, (used + free) // page * page)}")
    yield
    remount(disk, "size=64m")


@contextlib.contextmanager
def without_inodes(disk, free):
    stats = os.statvfs(disk)
    remount(disk, f"nr_inodes={stats.f_files - stats.f_ffree + free}")
    yield
    remount(disk, "nr_inodes=100000")


@contextlib.contextmanager
def read_only(disk, _):
    remount(disk, "ro")
    yield
    remount(disk, "rw")


@contextlib.contextmanager
def vanishing(disk, delay):
    """Removes everything on the disk after ``delay`` seconds."""

    def remove():
        if not stop.wait(delay):
            for path in disk.iterdir():
                shutil.rmtree(path, ignore_errors=True)

    stop = threading.Event()
    thread = threading.Thread(target=remove)
    thread.start()
    yield
    stop.set()
    thread.join()


KINDS = {"full": full, "inodes": without_inodes, "read-only": read_only, "vanishing": vanishing}


def try_task(scene, name, kind, amount, disk, expected):
    """Disturbs a task, then lets it finish; returns what went wrong, or None."""
    out = disk / "made" / "out"
    out.parent.mkdir(parents=True, exist_ok=True)
    scene.begin(name, out)
    with KINDS[kind](disk, amount) if kind in KINDS else largest_file(amount):
        code, error = scene.run(name, out)
    if os.environ.get("TELL"):
        print(f"    {name} {kind} {amount}: {code} {error[:300]}", end="" if error else "\n")
    if code not in (None, 0) and (fault := refusal(code, error)):
        return fault
    if kind == "vanishing":  # the task's inputs are gone too
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir(parents=True)
        scene.begin(name, out)
    if code not in (None, 0) or kind == "vanishing":
        code, error = scene.finish(name, out)
        if code not in (None, 0):
            return f"then, with room: exit {code}, {error[-400:]}"
    if fingerprint(out) != expected:
        return "the result is another one"
    left = {p.name for p in out.parent.iterdir()} - {"out", "out.csv", "out.csv.json", "model"}
    return f"left behind: {sorted(left)}" if left else None


def sweep(scene, folder, names, amounts, *, kinds=tuple(KINDS)):
    """Tries tasks with several fractions of the bytes, inodes or seconds that they take."""
    tally = Tally(PROMISE)
    for name in names:
        with mounted(folder / "disk") as disk:
            out = disk / "made" / "out"
            out.parent.mkdir()
            scene.begin(name, out)
            before, inodes = shutil.disk_usage(disk).used, os.statvfs(disk).f_ffree
            began = time.perf_counter()
            code, error = scene.run(name, out)
            seconds = time.perf_counter() - began
            assert code in (None, 0), f"{name}: {error}"
            bytes_ = max(shutil.disk_usage(disk).used - before, 1 << 16)
            inodes -= os.statvfs(disk).f_ffree
            expected = fingerprint(out)
        for kind in kinds:
            of = {"full": bytes_, "inodes": inodes + 4, "vanishing": seconds}.get(kind, 0)
            for part in amounts if of else (0,):
                with mounted(folder / "disk") as disk:
                    amount = part * of if kind == "vanishing" else int(part * of)
                    fault = try_task(scene, name, kind, amount, disk, expected)
                tally.add(f"{name}, {kind} at {part:.0%}", fault)
    return tally
