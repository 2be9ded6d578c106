"""Mutation tests: do the tests notice faults of one line?

    python tests/mutations.py . tests/mutations.json RESULTS.json

The list was drawn up before the tests were cut; its "before" says what the tests of then caught.

Each mutation replaces one text in one file of a copy of ROOT. Then the tests are run in stages:
those named after the module, and then all others of its package, those that import the module
first. Tests that fail or take too long have caught the mutation. Results are written after every
mutation, and a further call skips those that are already there.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

# Numpy's products are small, and it must not have threads when this process forks.
os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import flax  # noqa: F401
import jax  # noqa: F401
import optax  # noqa: F401
import pytest
import scipy.optimize  # noqa: F401
from orbax.checkpoint import v1 as orbax  # noqa: F401

COPIED = ("src", "tests", "experiments", "docs", "pyproject.toml", "README.md", "CONTRIBUTING.md")
PACKAGE = Path("src/metaheac_jax")
#: Without xdist; a test that is marked as slow is not run, as by default.
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=line", "--color=no")


def copied(root: Path, target: Path) -> Path:
    """Copies the tree that the tests need."""
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "*.egg-info")
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, target / name, ignore=ignored)
        elif (root / name).exists():
            shutil.copy2(root / name, target / name)
    options = target / "pyproject.toml"  # it has options of xdist, which is off
    options.write_text(options.read_text().replace(" --dist loadfile", ""))
    return target


def located(tree: Path, file: str, old: str) -> Path | None:
    """The file with the old text: the named one, or the only one of src that has it, once."""
    named = tree / file
    if named.is_file() and named.read_text().count(old) == 1:
        return named
    having = [path for path in sorted((tree / "src").rglob("*.py")) if old in path.read_text()]
    return having[0] if len(having) == 1 and having[0].read_text().count(old) == 1 else None


def stages(tree: Path, module: Path) -> list[list[str]]:
    """Test files by stage, for a module given by its path below the package."""
    folder = tree / "tests" / module.parent
    first = sorted(folder.glob(f"test_{module.stem}*.py"))
    if module.parent == Path():  # a top-level module has no package
        return [[str(path) for path in first]]
    name = ".".join(module.with_suffix("").parts)
    rest = [path for path in sorted(folder.glob("test_*.py")) if path not in first]
    rest.sort(key=lambda path: f"metaheac_jax.{name} import" not in path.read_text())
    return [own for own in ([str(path) for path in first], [str(path) for path in rest]) if own]


def tested(tree: Path, files: list[str], seconds: int) -> tuple[str, str]:
    """Runs test files: "passed", "failed" or "timeout", and what pytest says last.

    The tests run in a fork of this process, which has imported jax, but none of the package.

    Args:
      tree: the copied tree.
      files: test files.
      seconds: CPU time after which they are stopped; and five times as long on the clock.
    """
    with tempfile.TemporaryFile() as said:
        child, began = os.fork(), time.monotonic()
        if not child:
            try:
                os._exit(_tests(tree, files, seconds, said.fileno()))
            finally:  # an error must not go on as this process
                os._exit(70)
        while not (ended := os.waitpid(child, os.WNOHANG))[0]:
            time.sleep(0.05)
            if time.monotonic() - began > 5 * seconds:
                os.killpg(child, signal.SIGKILL)  # with the processes that the tests started
        code = os.waitstatus_to_exitcode(ended[1])
        said.seek(0)
        lines = said.read().decode(errors="replace").splitlines()
    if code in (-signal.SIGKILL, -signal.SIGXCPU):
        return "timeout", ""
    if code in (3, 4, 70):  # pytest's own failures, and those of `_tests`
        raise RuntimeError("\n".join(lines[-20:]))
    told = [line for line in lines if line.startswith(("FAILED", "ERROR"))] or lines[-1:]
    return ("passed" if code in (0, 5) else "failed"), " ".join(told)[:300]


def _tests(tree: Path, files: list[str], seconds: int, output: int) -> int:
    """Runs test files in a forked process, with a limit on its CPU time; pytest's exit code."""
    os.setsid()
    os.chdir(tree)
    for stream in (1, 2):
        os.dup2(output, stream)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    os.environ |= {"PYTHONPATH": str(tree / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    sys.path.insert(0, str(tree / "src"))
    sys.dont_write_bytecode = True
    try:
        return int(pytest.main([*OPTIONS, *files]))
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()


def judged(tree: Path, mutation: dict[str, str], options: argparse.Namespace) -> dict[str, object]:
    """Applies a mutation, runs the tests, and restores the file."""
    began = time.perf_counter()
    path = located(tree, mutation["file"], mutation["old"])
    if path is None:
        return {"outcome": "gone", "in": "", "stage": 0, "why": "", "seconds": 0.0}
    original, result, why, stage = path.read_text(), "passed", "", 0
    files = stages(tree, path.relative_to(tree / PACKAGE))[: options.stages]
    try:
        path.write_text(original.replace(mutation["old"], mutation["new"]))
        while result == "passed" and stage < len(files):
            result, why = tested(tree, [*options.select, *files[stage]], options.timeout)
            stage += 1
    finally:
        path.write_text(original)
    return {
        "outcome": "survived" if result == "passed" else "caught",
        "in": str(path.relative_to(tree)),
        "stage": stage,
        "why": result if result == "timeout" else why,
        "seconds": round(time.perf_counter() - began, 1),
    }


def check(tree: Path, mutations: list[dict[str, str]]) -> None:
    """Runs the tests of each mutated package without a mutation; all should pass."""
    for package in sorted({Path(m["file"]).relative_to(PACKAGE).parent for m in mutations}):
        files = sorted((tree / "tests" / package).glob("test_*.py"))
        if package == Path():
            files = [tree / "tests" / "test_ranking.py"]
        began = time.perf_counter()
        result, why = tested(tree, [str(path) for path in files], 1800)
        print(package, result, why, f"{time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="a checkout")
    parser.add_argument("mutations", type=Path, help='a list of {"file", "old", "new"}')
    parser.add_argument("results", type=Path, help="results so far are kept")
    parser.add_argument("--timeout", type=int, default=240, help="CPU seconds for each stage")
    parser.add_argument("--stages", type=int, default=9, help="1: only the first")
    parser.add_argument("--again", nargs="*", default=[], help="survived, timeout")
    parser.add_argument("--check", action="store_true", help="run the tests without a mutation")
    parser.add_argument("--markers", help="tests to run, such as 'slow and not long'")
    options = parser.parse_args()
    options.select = [] if options.markers is None else ["-m", options.markers]
    mutations = json.loads(options.mutations.read_text())
    results = json.loads(options.results.read_text()) if options.results.exists() else []
    results = [r for r in results if not {r["outcome"], r["why"]} & {*options.again}]
    done = {(r["file"], r["old"], r["new"]): r for r in results}
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        tree = copied(options.root, Path(folder))
        if options.check:
            check(tree, mutations)
            return
        for number, mutation in enumerate(mutations):
            key = mutation["file"], mutation["old"], mutation["new"]
            if key not in done:
                done[key] = {**mutation, **judged(tree, mutation, options)}
                told = [done[key].get(name, "") for name in ("outcome", "stage", "seconds", "why")]
                print(number, mutation["file"], repr(mutation["new"]), *told, flush=True)
                options.results.write_text(json.dumps(list(done.values()), indent=1) + "\n")
    kept = [done[m["file"], m["old"], m["new"]] for m in mutations]
    options.results.write_text(json.dumps(kept, indent=1) + "\n")
    print(dict(collections.Counter(r["outcome"] for r in kept)))


if __name__ == "__main__":
    main()
