"""A flipped bit in a file: refused in one line, or no other result."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import polars as pl
from damages import flip

from faults.kills import kill
from faults.scene import Tally, begin, fingerprint, rng_of, started

FLIPPED = "a flipped bit in {}: refused, not used, or of no matter; never another result"


def hurt(path, rng):
    """Flips a bit of a file, or of a random one of a folder; returns its name."""
    files = sorted(own for own in path.rglob("*") if own.is_file()) if path.is_dir() else [path]
    files = [own for own in files if own.stat().st_size]
    if rng.random() < 0.5:  # half of all bits are in a large file
        files = sorted(files, key=lambda own: own.stat().st_size)[-3:]
    chosen = files[rng.integers(len(files))]
    content = flip(chosen.read_bytes(), rng)
    chosen.unlink()  # copies are hard links
    chosen.write_bytes(content)
    return str(chosen.relative_to(path))


def copied(source, target):
    """A copy of a folder whose files are hard links."""
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target, copy_function=os.link)


def inputs(scene, name, trials):
    """Flips a bit of DATA or MODEL; `metaheac expand` reads both."""
    tally, expected = Tally(FLIPPED.format(name)), scene.result("expand")
    for trial in range(trials):
        hit = copied(scene.folder / name, scene.folder / "hit")
        file, out = hurt(hit, rng_of(name, trial)), scene.place("reads", "expand")
        run = scene.run("expand", out, **{name: hit})
        tally.judge(file, run, lambda out=out: fingerprint(out) == expected)
    return tally


def interrupted(scene):
    """The output of a training that was killed once it had two checkpoints."""
    out = scene.folder / "begun" / "out"
    if out.parent.exists():
        return out
    child, error = scene.start("fit", scene.place("begun", "fit"))
    while len(list(out.parent.glob("*.training/[0-9]*/checkpoint.json"))) < 2:
        assert child.is_alive(), error.read_text()
        child.join(0.005)
    kill(child, 0)
    return out


def trainings(scene, trials):
    """Flips a bit in the checkpoints of a killed training, which then goes on."""
    name = "a checkpoint"
    tally, expected = Tally(FLIPPED.format(name)), scene.result("fit")
    out = interrupted(scene)
    work = out.with_name(f"{out.name}.training")
    for trial in range(trials):
        hit = Path(copied(out.parent, scene.folder / "hit")) / work.name
        chosen = hit if trial % 4 else hit / "run.json"
        file, again = hurt(chosen, rng_of(name, trial)), hit.with_name(out.name)
        run = scene.run("fit", again)
        tally.judge(file, run, lambda again=again: fingerprint(again) == expected)
    return tally


def exports(scene, trials):
    """Flips a bit of an export, which then scores all users."""
    tally, scores = Tally(FLIPPED.format("an export")), scene.folder / "scores"
    whole = scene.folder / "EXPORT"
    assert _score(scene, whole, scores) == (0, "")
    expected = scores.read_bytes()
    for trial in range(trials):
        hit = copied(whole, scene.folder / "hit")
        file = hurt(hit, rng_of("export", trial))
        run = _score(scene, hit, scores)
        tally.judge(file, run, lambda: scores.read_bytes() == expected)
    return tally


def _score(scene, folder, scores):
    """Exit code and messages of a child that scores all users with an export."""
    error = scene.folder / "error"
    tables = str(scene.folder / "TABLES" / "users.csv")
    arguments = (str(folder), tables, str(scores), str(error), str(scene.folder / "compiled"))
    child = started(score_all, *arguments)
    child.join()
    return child.exitcode, error.read_text()


def score_all(folder, users, scores, error, compiled):
    """Scores the users of a table with an export, as a program of a user does."""
    from metaheac_jax.engines.arrow import open_export
    from metaheac_jax.errors import InputError

    begin(error, compiled)
    columns = pl.read_csv(users).to_arrow()
    try:
        result = open_export(folder)(columns)
    except InputError as refused:
        print(f"error: {refused}", file=sys.stderr)
        sys.exit(2)
    Path(scores).write_bytes(np.asarray(result).tobytes())
