"""Errors of the user: one line with the option or file, and what to do."""

import pytest
from commands import contents, refuses

from metaheac_jax.cli.main import main

EXPAND = "expand MODEL DATA --out OUT/a.csv"
#: A command line, the files that it needs, and words of the error.
REFUSALS = [
    ("simulate OUT/world --users 5", {}, ("--users", "110000")),
    ("simulate OUT/world --seed -1", {}, ("--seed", "0 or more")),
    ("simulate WORLD --show IN/a.csv", {}, ("--show", "--out")),
    ("prepare IN/none OUT/data", {}, ("IN/none", "three tables")),
    ("prepare WORLD IN", {"IN/mine.txt": "x"}, ("IN", "another folder")),
    ("prepare WORLD OUT/data --schema IN/s.json", {"IN/s.json": "{"}, ("IN/s.json", "JSON")),
    ("prepare WORLD OUT/data --exclude IN/none.txt", {}, ("IN/none.txt",)),
    *(
        (line, {"IN/a.csv": "user_id\n7\n8.0\n"}, ("IN/a.csv: line 3", "'8.0'", "fix or remove"))
        for line in (
            "prepare WORLD OUT/data --exclude IN/a.csv",
            "add DATA --exclude IN/a.csv",
            "expand MODEL DATA --campaign NEW --size 5 --exclude IN/a.csv --out OUT/a.csv",
            "expand MODEL DATA --campaign NEW --size 5 --pool IN/a.csv --out OUT/a.csv",
            "explain MODEL DATA --campaign NEW --pool IN/a.csv --out OUT/a.html",
        )
    ),
    ("add DATA --exclude IN/a.txt", {"IN/a.txt": "-5"}, ("IN/a.txt", "-5 (line 1)", "omit")),
    ("add DATA", {}, ("--campaigns", "--examples")),
    ("add IN/none --examples IN/e.csv", {}, ("IN/none",)),
    (
        "add DATA --examples IN/e.csv",
        {"IN/e.csv": "campaign_id,user_id,label\nnone-such,1,1\n"},
        ("IN/e.csv", "none-such"),
    ),
    (
        "add DATA --examples IN/e.csv",
        {"IN/e.csv": "campaign_id,user_id,label\nNEW,1\x1b[2J,1\n"},
        ("IN/e.csv",),
    ),
    (
        "add DATA --campaigns IN/\x1b]0;c.csv",
        {"IN/\x1b]0;c.csv": "campaign_id\nnew\n"},
        ("\ufffd]0;c.csv",),
    ),
    ("fit DATA OUT/m --method metahaec", {}, ("metahaec", "metaheac")),
    ("fit DATA OUT/m --set widht=3", {}, ("widht", "width")),
    ("fit DATA OUT/m --set width", {}, ("--set", "NAME=VALUE")),
    ("fit DATA OUT/m --set width=3 width=4", {}, ("--set", "width", "give one")),
    ("fit DATA OUT/m --leave-out none-such", {}, ("none-such",)),
    ("fit DATA MODEL --from MODEL", {}, ("MODEL", "is read")),
    ("fit DATA OUT/m --method metaheac:offical", {}, ("offical", "official")),
    ("fit DATA OUT/m --from MODEL --method lr", {}, ("--from", "--method")),
    ("fit DATA OUT/m --processes auto", {}, ("--processes", "--mesh")),
    ("fit DATA OUT/m --mesh row=2 --processes 2/2@h:1", {}, ("--processes", "0/2@HOST:PORT")),
    ("fit DATA OUT/m --mesh campaign=99", {}, ("99",)),
    (f"{EXPAND} --size 5", {}, ("--campaign", "--seeds")),
    (f"{EXPAND} --size 5 --campaign NEW --all-new", {}, ("--campaign",)),
    (f"{EXPAND} --campaign NEW", {}, ("size", "percent")),
    (f"{EXPAND} --seeds IN/s.txt --size 5", {"IN/s.txt": "1"}, ("--attributes",)),
    (
        f"{EXPAND} --seeds IN/s.csv --attributes IN/a.json --size 5",
        {"IN/s.csv": "user_id,converted\n1,1\n2,0\n", "IN/a.json": "{}"},
        ("IN/s.csv", "columns besides user_id", "add --examples"),
    ),
    (
        f"{EXPAND} --seeds IN/s.csv --attributes IN/a.json --size 5",
        {"IN/s.csv": "7\n8\n", "IN/a.json": "{}"},
        ("IN/s.csv", "has no column 'user_id'"),
    ),
    (
        f"{EXPAND} --seeds IN/s.txt --attributes IN/a.json --size 5",
        {"IN/s.txt": "7\n\n007", "IN/a.json": "{}"},
        ("IN/s.txt: line 3", "'007'", "fix or remove"),
    ),
    (f"{EXPAND} --campaign=-x --size 5", {}, ("no campaign '-x'",)),
    (
        f"{EXPAND} --seeds IN/s.txt --attributes IN/a.json --size 5",
        {"IN/s.txt": "7", "IN/a.json": "[]"},
        ("IN/a.json", "JSON"),
    ),
    (
        "expand MODEL DATA --campaign NEW --size 5 --pool OUT/a.csv --out OUT/a.csv",
        {"OUT/a.csv": "user_id\n"},
        ("--out", "OUT/a.csv"),
    ),
    ("expand MODEL DATA --campaign NEW --size 5 --out OUT/a.xls", {}, ("--out", ".csv")),
    ("expand MODEL DATA --campaign NEW --size 5 --out OUT/none/a.csv", {}, ("OUT/none",)),
    ("expand DATA MODEL --campaign NEW --size 5 --out OUT/a.csv", {}, ("DATA",)),
    ("explain MODEL DATA --campaign NEW --out OUT/a.pdf", {}, ("--out", ".html")),
    ("explain MODEL DATA --campaign NEW --out DATA/manifest.json", {}, ("--out", "is read")),
    ("explain MODEL DATA --campaign NEW --out MODEL/model.json", {}, ("--out", "is read")),
    ("explain MODEL DATA --campaign NEW --out DATA/new.json", {}, ("--out", "is read")),
    ("expand MODEL DATA --campaign NEW --size 5 --out DATA/a.csv", {}, ("--out", "is read")),
    ("simulate WORLD --show IN/a.csv --out WORLD/new/a.csv", {}, ("--out", "is read")),
    ("fit DATA DATA/m", {}, ("DATA/m", "is read")),
    ("fit OUT/m.training OUT/m", {}, ("OUT/m.training", "is read")),
    ("fit DATA OUT/m", {"OUT/m.training": "x"}, ("OUT/m.training", "run.json")),
    ("prepare WORLD WORLD", {}, ("WORLD", "is read")),
    ("evaluate MODEL DATA --against MODEL --audience IN/a.csv", {}, ("--audience",)),
    ("evaluate MODEL DATA", {}, ("stage 2",)),
    ("export MODEL DATA --campaign NEW --out IN", {"IN/mine.txt": "x"}, ("--out", "IN")),
    # What does not parse.
    ("expand MODEL --size 5", {}, ("Missing", "--out", "--help")),
    ("expand MODEL DATA --out OUT/a.csv --size x", {}, ("--size", "'x'", "--help")),
    (f"{EXPAND} --sise 5", {}, ("--sise", "--size N", "--help")),
    ("learn", {}, ("learn", "simulate, prepare, add, fit")),
]


@pytest.mark.parametrize(("line", "files", "words"), REFUSALS)
def test_an_error_is_one_line_and_nothing_is_written(made, tmp_path, capsys, line, files, words):
    places = {"WORLD": made.world, "DATA": made.data, "MODEL": made.model, "NEW": made.names[0]}
    places |= {name: tmp_path / name for name in ("IN", "OUT")}
    for name in ("IN", "OUT"):
        places[name].mkdir()

    def filled(text):
        for name, own in places.items():
            text = text.replace(name, str(own))
        return text

    for name, content in files.items():
        (tmp_path / name).write_text(filled(content))
    before = contents(tmp_path / "OUT")
    words = [word if word.startswith("NAME") else filled(word) for word in words]
    refuses(capsys, main, *filled(line).split(" "), words=words)
    assert contents(tmp_path / "OUT") == before
