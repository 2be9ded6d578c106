"""Builds the API reference, and fails on a `reference` in a docstring that leads nowhere."""

import ast
import builtins
import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "metaheac_jax"
#: Names in single backticks: `name`, `module.name`, `package.module.name`.
REFERENCE = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)")


def defined(tree: ast.Module) -> set[str]:
    """Every name that a module defines, classes' members and parameters too."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[0])
    return names


def broken() -> list[str]:
    """The references that lead nowhere."""
    trees = {path: ast.parse(path.read_text()) for path in SOURCE.rglob("*.py")}
    modules = {path.stem for path in trees} | {path.parent.name for path in trees}
    names = set().union(*map(defined, trees.values())) | modules | set(dir(builtins))
    outside = {"jax", "numpy", "optax", "flax", "experiments", "metaheac"}
    lines = []
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            for reference in REFERENCE.findall(ast.get_docstring(node) or ""):
                parts = reference.split(".")
                if parts[0] not in outside and not set(parts) <= names:
                    lines.append(f"{path}: `{reference}` in a docstring leads nowhere")
    return lines


def modules() -> list[str]:
    """The package and what stands in it, but the command line; pdoc finds what is below.

    ``methods`` is in the package's ``__all__``, so it is there already.
    """
    names = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    inside = sorted(
        name for name in names if not name.startswith("_") and name not in ("cli", "methods")
    )
    return ["metaheac_jax", *(f"metaheac_jax.{name}" for name in inside)]


if __name__ == "__main__":
    lines = broken()
    print("\n".join(lines))
    if lines:
        sys.exit(1)
    ran = subprocess.run(
        [sys.executable, "-m", "pdoc", "-d", "google", "-o", sys.argv[1], *modules()],
        capture_output=True,
        text=True,
    )
    # pdoc cannot resolve the string annotations of a NamedTuple's own __init__, and a TypedDict
    # does not tell which keys it has from another one; the pages are right.
    known = re.compile(
        r"Error parsing type annotation ForwardRef\(.*\.__init__\."
        r"|Cannot determine where metaheac_jax\.training\.meta\.MetaOptions\.\w+ is taken from"
    )
    lines = [line for line in ran.stderr.splitlines() if line and not known.search(line)]
    print("\n".join(lines))
    sys.exit(ran.returncode or bool(lines))
