"""The plan of the house: imports run one way, names are unique, functions stay short."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "metaheac_jax"
#: Each room imports only rooms that stand before it.
ROOMS = (
    ("errors", "progress"),
    ("settings", "backend", "files", "schema", "ranking"),
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
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}
#: Every command has options and a main; every source has a prepare.
CONTRACTS = {"Options", "main", "prepare"}
MAX_LINES = 80


def modules():
    return {path: ast.parse(path.read_text()) for path in SOURCE.rglob("*.py")}


def room(path):
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported(tree):
    """The rooms that a module imports from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metaheac_jax"):
            parts = node.module.split(".")[1:]
            yield from parts[:1] or [alias.name for alias in node.names]
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("metaheac_jax") for alias in node.names)


def test_imports_run_one_way():
    for path, tree in modules().items():
        for other in imported(tree):
            if other != room(path):
                assert RANK[other] < RANK[room(path)], f"{path} imports {other}"


def test_the_library_does_not_import_experiments():
    for path in SOURCE.rglob("*.py"):
        assert "import experiments" not in path.read_text()
        assert "from experiments" not in path.read_text()


def test_no_two_public_things_share_a_name():
    places = defaultdict(list)
    for path, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.name)
    shared = {name: where for name, where in places.items() if len(where) > 1}
    assert set(shared) <= CONTRACTS, shared


def test_functions_are_short():
    for folder in ("src", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef):
                    lines = node.end_lineno - node.lineno + 1
                    assert lines <= MAX_LINES, f"{path}: {node.name} has {lines} lines"


def test_where_a_field_lies_is_known_in_one_room():
    """`user_slots` and `small_fields` occur in table/ and the data set's own module alone."""
    for folder in ("src", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            if "user_slots" in text or "small_fields" in text:
                assert path.parent.name == "table", path


def test_no_file_outside_the_repository_is_named():
    parent = ".." + "/"
    for folder in ("src", "experiments", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert parent + "shared" not in path.read_text(), path
