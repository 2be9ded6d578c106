"""Mutation tests: do the tests notice faults of one line?

    python tests/mutations.py tests/mutations.json               which mutations have their line
    python tests/mutations.py tests/mutations.json RESULTS.json  and which of them tests catch

The list was drawn up before the tests were cut; its "before" says what the tests of then caught.

Each mutation replaces one text in one file of a copy of this checkout. Then the tests are run in
stages: those named after the module, and then all others of its package, those that import the
module first. Tests that fail or take too long have caught the mutation. Results are written after
every mutation, and a further call skips those that are already there.
"""

from __future__ import annotations

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


def copied(target: Path) -> Path:
    """Copies the tree that the tests need."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.egg-info")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, target / name, **({"ignore": ignored} if (ROOT / name).is_dir() else {}))
    return target


def located(tree: Path, file: str, old: str) -> tuple[Path, re.Match[str]] | None:
    """The old text, wherever its lines break: in the named file, or else in the first that has it.

    Files of the same name come first.
    """
    words = re.findall(r"\w+|[^\w\s]", old)
    ends = [",?\\s*" * (word in (")", "]", "}")) + re.escape(word) for word in words]
    text, named = re.compile("\\s*".join(ends)), tree / file
    others = sorted(
        (tree / PACKAGE).rglob("*.py"), key=lambda p: (p != named, p.name != named.name, p)
    )
    found = ((path, text.search(path.read_text())) for path in others)
    return next(((path, match) for path, match in found if match), None)


def stages(tree: Path, module: Path) -> list[list[str]]:
    """Test files by stage, for a module given by its path below the package."""
    if len(module.parts) == 1:  # a top-level module has no package
        return [[str(path) for path in sorted((tree / "tests").glob(f"test_{module.stem}*.py"))]]
    folder, name = tree / "tests" / module.parts[0], ".".join(module.with_suffix("").parts)
    first = sorted(folder.glob(f"test_{module.stem}*.py"))
    rest = [path for path in sorted(folder.glob("test_*.py")) if path not in first]
    rest.sort(key=lambda path: f"metaheac_jax.{name} import" not in path.read_text())
    return [own for own in ([str(path) for path in first], [str(path) for path in rest]) if own]


def tested(tree: Path, files: list[str]) -> tuple[str, str]:
    """Runs test files: "passed", "failed" or "timeout", and what pytest says last."""
    own = {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "pytest", *OPTIONS, *files],
        cwd=tree,
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            lines = process.communicate(timeout=SECONDS)[0].splitlines()
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with the processes that the tests started
            return "timeout", ""
    if process.returncode in (3, 4):  # pytest's own failures
        raise RuntimeError("\n".join(lines[-20:]))
    told = [line for line in lines if line.startswith(("FAILED", "ERROR"))] or lines[-1:]
    return ("passed" if process.returncode in (0, 5) else "failed"), " ".join(told)[:300]


def judged(tree: Path, mutation: dict[str, str]) -> dict[str, object]:
    """Applies a mutation, runs the tests, and restores the file."""
    place = located(tree, mutation["file"], mutation["old"])
    if place is None:
        return {"outcome": "gone"}
    (path, match), result, why = place, "passed", ""
    try:
        text = match.string
        path.write_text(text[: match.start()] + mutation["new"] + text[match.end() :])
        for files in stages(tree, path.relative_to(tree / PACKAGE)):
            if result == "passed":
                result, why = tested(tree, files)
    finally:
        path.write_text(match.string)
    outcome = "survived" if result == "passed" else "caught"
    return {"outcome": outcome, "in": str(path.relative_to(tree)), "why": why or result}


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mutations", type=Path, help='a list of {"file", "old", "new"}')
    parser.add_argument("results", type=Path, nargs="?", help="results so far are kept")
    options = parser.parse_args()
    mutations = json.loads(options.mutations.read_text())
    if options.results is None:
        gone = [own for own in mutations if located(ROOT, own["file"], own["old"]) is None]
        print(*(f"gone: {own['file']}: {own['old']}" for own in gone), sep="\n")
        print(f"{len(mutations) - len(gone)} of {len(mutations)} have their line")
        return
    results = json.loads(options.results.read_text()) if options.results.exists() else []
    done = {(own["file"], own["old"], own["new"]): own for own in results}
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        tree = copied(Path(folder))
        for number, mutation in enumerate(mutations):
            key = mutation["file"], mutation["old"], mutation["new"]
            if key not in done:
                done[key] = {**mutation, **judged(tree, mutation)}
                print(number, *key[::2], done[key]["outcome"], done[key].get("why"), flush=True)
                options.results.write_text(json.dumps(list(done.values()), indent=1) + "\n")
    print(dict(collections.Counter(own["outcome"] for own in done.values())))


if __name__ == "__main__":
    main()
