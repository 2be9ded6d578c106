"""Faults of one line, to see that tests notice them.

    python -m tests.mutations                      which mutations have lost their line
    python -m tests.mutations RESULTS.json [PART]  which of them, in files with PART, tests catch

``mutations.json`` has for each file of the package pairs of a text and what replaces it. A mutation
is made in a copy of this checkout. Then the tests that are named after the module run, and then all
others of its package. Results are written after each mutation; another call goes on after them.
"""

import argparse
import collections
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
COPIED = ("src", "tests", "experiments", "docs", "pyproject.toml", "README.md", "CONTRIBUTING.md")
PACKAGE = Path("src/metaheac_jax")
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-n", "0", "--tb=line", "--color=no")
SECONDS = 1200  # for each stage


def mutations():
    """(file, old, new) of each mutation."""
    listed = json.loads(Path(__file__).with_suffix(".json").read_text())
    return [(file, *pair) for file, pairs in listed.items() for pair in pairs]


def place_of(path, old):
    """The match of a text in a file, wherever its lines break; None if it has none."""
    words = re.findall(r"\w+|[^\w\s]", old)
    ends = [",?\\s*" * (word in (")", "]", "}")) + re.escape(word) for word in words]
    return re.search("\\s*".join(ends), path.read_text()) if path.exists() else None


def lost():
    """The mutations whose text is not in their file."""
    return [one for one in mutations() if place_of(ROOT / PACKAGE / one[0], one[1]) is None]


def stages(tree, module):
    """Test files by stage, for a module given by its path below the package."""
    if len(module.parts) == 1:  # a top-level module has no package
        return [sorted((tree / "tests").glob(f"test_{module.stem}*.py"))]
    folder, name = tree / "tests" / module.parts[0], ".".join(module.with_suffix("").parts)
    first = sorted(folder.glob(f"test_{module.stem}*.py"))
    rest = [path for path in sorted(folder.glob("test_*.py")) if path not in first]
    rest.sort(key=lambda path: f"metaheac_jax.{name} import" not in path.read_text())
    return [first, rest]


def failure(tree, files):
    """Which test fails; empty if all pass."""
    environment = {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *OPTIONS, *map(str, files)],
        cwd=tree,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            lines = process.communicate(timeout=SECONDS)[0].splitlines()
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that the tests started
            return "timeout"
    if process.returncode in (3, 4):  # pytest's own failures
        raise RuntimeError("\n".join(lines[-20:]))
    told = [line for line in lines if line.startswith(("FAILED", "ERROR"))] or lines[-1:]
    return "" if process.returncode in (0, 5) else " ".join(told)[:300]


def judged(tree, file, old, new):
    """What catches a mutation; the file is restored."""
    path = tree / PACKAGE / file
    found = place_of(path, old)
    if found is None:
        return "lost"
    text = found.string
    try:
        path.write_text(text[: found.start()] + new + text[found.end() :])
        each = (failure(tree, files) for files in stages(tree, Path(file)) if files)
        return next(filter(None, each), "survived")
    finally:
        path.write_text(text)


def main():
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?", help="results so far are kept")
    parser.add_argument("part", nargs="?", default="", help="of the names of files")
    options = parser.parse_args()
    if options.results is None:
        print(*(f"lost: {file}: {old}" for file, old, _ in lost()), f"{len(lost())} lost", sep="\n")
        sys.exit(bool(lost()))
    done = json.loads(options.results.read_text()) if options.results.exists() else {}
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        tree, ignored = Path(folder), shutil.ignore_patterns("__pycache__", ".*", "*.egg-info")
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, tree / name, ignore=ignored)
            else:
                shutil.copy2(ROOT / name, tree / name)
        for mutation in mutations():
            key = ": ".join(mutation)
            if options.part in mutation[0] and key not in done:
                done[key] = judged(tree, *mutation)
                print(key, done[key], sep="\n    ", flush=True)
                options.results.write_text(json.dumps(done, indent=1) + "\n")
    outcomes = collections.Counter(
        own if own in ("lost", "survived") else "caught" for own in done.values()
    )
    print(dict(outcomes))


if __name__ == "__main__":
    main()
