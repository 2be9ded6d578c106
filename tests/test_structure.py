"""The package structure: imports run one way, names are unique, functions stay short."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "metaheac_jax"
#: Each layer imports only layers that stand before it; those of one line do not import each other.
LAYERS = (
    ("errors", "progress"),
    ("settings", "backend", "processes", "threads", "files", "schema", "ranking"),
    ("environment", "sealed"),
    ("table",),
    ("data",),
    ("networks",),
    ("model",),
    ("training",),
    ("customise",),
    ("methods",),
    ("audience",),
    ("__init__",),
    ("cli",),
    ("__main__",),
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
#: Every command has options and a main, every source a prepare, every kind of folder a manifest.
CONTRACTS = {"Options", "main", "prepare", "FORMAT", "MANIFEST"}
MAX_LINES = 80


def modules():
    return {path: ast.parse(path.read_text()) for path in SOURCE.rglob("*.py")}


def part(path):
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported(tree):
    """The parts of the package that a module imports from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metaheac_jax"):
            names = node.module.split(".")[1:]
            yield from names[:1] or [alias.name for alias in node.names]
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("metaheac_jax") for alias in node.names)


def test_imports_run_one_way():
    for path, tree in modules().items():
        for other in imported(tree):
            if other != part(path):
                assert RANK[other] < RANK[part(path)], f"{path} imports {other}"


def test_imports_are_absolute():
    """So that `imported` sees them all."""
    for path, tree in modules().items():
        for node in ast.walk(tree):
            assert not getattr(node, "level", 0), f"{path} has a relative import"


def test_the_library_does_not_import_experiments():
    for path in SOURCE.rglob("*.py"):
        assert "import experiments" not in path.read_text()
        assert "from experiments" not in path.read_text()


def public_names(tree):
    """Functions, classes and capitalised variables of a module, without type variables."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found = [name for t in targets for name in ast.walk(t) if isinstance(name, ast.Name)]
            value = node.value
            is_type = isinstance(value, ast.Call) and getattr(value.func, "id", "") == "TypeVar"
            names = [name.id for name in found if name.id[0].isupper() and not is_type]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def test_public_names_are_those_of_definitions_and_of_capitalised_variables():
    code = "A, b = 1, 2\nC: int = 3\nT = TypeVar('T')\n_D = 4\ndef e(): F = 5\nclass G: H = 6\n"
    assert list(public_names(ast.parse(code))) == ["A", "C", "e", "G"]


def test_no_two_public_things_share_a_name():
    places = defaultdict(list)
    for path, tree in modules().items():
        for name in public_names(tree):
            places[name].append(str(path.relative_to(SOURCE)))
    shared = {name: where for name, where in places.items() if len(where) > 1}
    assert set(shared) <= CONTRACTS, shared


def test_functions_are_short():
    for folder in ("src", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    lines = node.end_lineno - node.lineno + 1
                    assert lines <= MAX_LINES, f"{path}: {node.name} has {lines} lines"


def test_where_a_field_lies_is_known_in_one_package():
    """`user_slots` and `small_fields` occur in table/ alone."""
    for folder in ("src", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            if "user_slots" in text or "small_fields" in text:
                assert path.parent.name == "table", path
