"""Options with arbitrary values: a command succeeds, or exits with 2 and without a traceback."""

import contextlib
import os
import shutil
from pathlib import Path

from faults.scene import Tally, quietly, rng_of

PROMISE = "any value of any option: done, or exit 2 without a traceback"
VALUES = (
    *("", "0", "-1", "1", "7", "1e400", "nan", "inf", "0.5", "1e-300", "9" * 400, "2147483647"),
    *("2147483648", "9223372036854775808", "-9223372036854775809", "1000000000000", "٣", "é", "\n"),
    *("\udcff", "missing", "missing/deep", "../up", ".", "/", "pipe", "folder", "empty", "noise"),
    *("deep.json", "surrogate.json", "bom.csv", "number.json", "None", "True", "--", "-h", "paper"),
    *("x" * 300, "all", "lr", "cosine", "link", "audience.parquet", "a.csv.gz", "loop"),
)


def files(folder):
    """Hostile files in the folder where commands run."""
    folder.mkdir()
    os.mkfifo(folder / "pipe")
    (folder / "folder").mkdir()
    (folder / "empty").write_text("")
    (folder / "noise").write_bytes(bytes(range(256)) * 9)
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "surrogate.json").write_text('{"advertiser": "\\ud800", "category": 1}')
    (folder / "number.json").write_text("9" * 5000)
    (folder / "bom.csv").write_bytes(b"\xef\xbb\xbfuser_id\n3\n")
    (folder / "link").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    return folder


def fuzzed(words, rng):
    """Makes one or two changes: a word replaced, removed or repeated, or an option added."""
    words = list(words)
    for _ in range(rng.integers(1, 3)):
        at = rng.integers(1, len(words))
        value = VALUES[rng.integers(len(VALUES))]
        slow = {"--users", "--epochs"}
        if words[at - 1] in slow or words[at] in slow:
            continue
        match rng.integers(6):
            case 0 | 1 | 2:
                words[at] = value
            case 3:
                del words[at]
                if len(words) == 1:
                    return words
            case 4:
                words.insert(at, words[at])
            case 5:
                option = ("--seed", "--exclude", "--size", "--percent", "--least-seeds", "--out")
                option += ("--base-rate", "--hash-rows", "--max-ids", "--previous", "--extends")
                option += ("--from-percent", "--to-percent", "--format", "--campaigns", "--method")
                option += ("--skip-nonfinite", "--settings", "--min-cell", "--with", "--from")
                words += [option[rng.integers(len(option))], value]
    return words


@contextlib.contextmanager
def inside(folder, home):
    """Sets the current folder, and the user's home folder unless ``home`` is empty."""
    before, own = Path.cwd(), {name: os.environ.get(name) for name in ("HOME", "XDG_CACHE_HOME")}
    os.chdir(folder)
    try:
        if home:
            os.environ["HOME"] = os.environ["XDG_CACHE_HOME"] = home
        yield
    finally:
        os.chdir(before)
        for name, value in own.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def run(scene, folder, trials):
    """Runs ``trials`` commands with fuzzed options, each in a new folder."""
    tally, names = Tally(PROMISE), list(scene.tasks)
    for trial in range(trials):
        rng = rng_of("options", trial)
        name = names[rng.integers(len(names))]
        task = scene.tasks[name]
        shutil.rmtree(folder / "fuzz", ignore_errors=True)
        (folder / "fuzz").mkdir()
        here = files(folder / "fuzz" / "here")
        out = here / "out"
        scene.begin(name, out)
        words = fuzzed([word.replace("OUT", str(out)) for word in task.words], rng)
        with inside(here, ["", "/nonexistent", "pipe"][rng.integers(3)]):
            code, error = quietly(task.start, *words)
        tally.add(f"{trial} {words}", fault(code, error))
    return tally


def fault(code, error):
    """What is wrong with how a command ended, or None."""
    if "Traceback" in error or code not in (None, 0, 2):
        return f"exit {code}: {error[-700:]}"
    lines = [line for line in error.splitlines() if not line.startswith("warning: ")]
    if code == 2 and lines and lines[0].startswith("error: ") and len(lines) > 1:
        return f"more than a line: {error[-300:]}"
    return None
