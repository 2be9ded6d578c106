"""The package structure: imports run one way, without a circle, and names are unique."""

import ast
import builtins
import graphlib
import inspect
import re
import tomllib
from pathlib import Path

import mutations

import metaheac_jax
import metaheac_jax.meta
import metaheac_jax.methods

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "metaheac_jax"
#: Each part imports only parts that stand before it.
LAYERS = (
    *("errors", "progress", "backend", "processes", "removing", "files", "boundary", "sealed"),
    *(
        "ranking",
        "schema",
        "encoding",
        "summary",
        "solvers",
        "table",
        "data",
        "networks",
        "model",
        "training",
    ),
    *("meta", "customising", "engines", "methods", "audience", "__init__", "cli", "__main__"),
)


def modules():
    """The syntax tree of every module, by its parts: ("table", "rows")."""
    paths = SOURCE.rglob("*.py")
    return {
        path.relative_to(SOURCE).with_suffix("").parts: ast.parse(path.read_text())
        for path in paths
    }


def imported(tree, known):
    """The modules of the package that a module imports, within functions, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("metaheac_jax") for alias in node.names)
        if not isinstance(node, ast.ImportFrom):
            continue
        assert not node.level, "a relative import"
        package, *parts = (node.module or "").split(".")
        if package != "metaheac_jax":
            continue
        for alias in node.names:
            own = (*parts, alias.name)
            places = own, (*own, "__init__"), tuple(parts), (*parts, "__init__")
            yield from [place for place in places if place in known][:1]


def test_imports_run_one_way_and_have_no_circle():
    trees = modules()
    graph = {module: set(imported(tree, trees)) for module, tree in trees.items()}
    for module, others in graph.items():
        for other in others:
            own, its = LAYERS.index(module[0]), LAYERS.index(other[0])
            assert its <= own, f"{module} imports {other}"
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_no_file_name_stands_twice():
    names = [module[-1] for module in modules() if module[-1] != "__init__"]
    assert len({*names}) == len(names)


def test_every_mutation_has_its_line():
    assert mutations.lost() == []


def test_the_library_does_not_import_experiments():
    for path in SOURCE.rglob("*.py"):
        assert "import experiments" not in path.read_text()
        assert "from experiments" not in path.read_text()


def test_where_a_field_lies_is_known_in_one_package():
    """`user_slots` and `small_fields` occur in table/ alone."""
    for folder in ("src", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            if "user_slots" in text or "small_fields" in text:
                assert path.parent.name == "table", path


def defined(tree):
    """Every name that a module defines, with members of classes and parameters."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]


def test_references_in_docstrings_lead_somewhere():
    """`name`, `module.name` and `package.module.name`, in single backticks."""
    trees = modules()
    outside = {"jax", "numpy", "optax", "flax", "experiments", "metaheac"}
    names = {part for module in trees for part in module} | {*dir(builtins)}
    names |= {name for tree in trees.values() for name in defined(tree)}
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found = re.findall(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)", ast.get_docstring(node) or "")
                inside = [own for own in found if own.split(".")[0] not in outside]
                unknown = [own for own in inside if not {*own.split(".")} <= names]
                assert not unknown, (module, unknown)


def test_public_docstrings_begin_with_a_verb():
    """Those of the functions and methods behind the names of the doors."""
    first = dict[str, str]()
    for door in (metaheac_jax, metaheac_jax.meta, metaheac_jax.methods):
        for name in door.__all__:
            public = getattr(door, name)
            own = vars(public).items() if inspect.isclass(public) else [(name, public)]
            for inner, function in own:
                function = getattr(function, "__func__", function)
                its_own = inspect.isfunction(function) and "metaheac" in function.__module__
                if its_own and not inner.startswith("_"):
                    first[f"{name}: {inner}"] = (function.__doc__ or "").partition(" ")[0]
    assert len(first) > 50
    assert [own for own in first.items() if not re.fullmatch("[A-Z][a-z]+s,?|See", own[1])] == []


def test_the_release_has_one_version():
    """In the package's metadata, the citation and the changelog."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"# Changelog\n\n## {version}\n" in (ROOT / "CHANGELOG.md").read_text()
