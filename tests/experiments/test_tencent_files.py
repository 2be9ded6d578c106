"""Files and folders of the Tencent comparison: bad ones are named, and prepared ones used again."""

import json
import pickle
from pathlib import Path

import commands
import pytest
from commands import contents, refuses, succeeds, tiny_settings
from tencent_world import (
    ADS,
    AIDS,
    CAMPAIGNS,
    SMALL_SCHEMA,
    TRAIN,
    TRUTH,
    USER_FILE,
    with_line,
    world,
    write,
)

from experiments import tencent
from experiments.comparison import report, runs
from metaheac_jax.data.sources import official
from metaheac_jax.schema import TENCENT

COMMAND = commands.module(tencent)
FILES = world()


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_settings():
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write(tmp_path_factory.mktemp("source") / "data")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


FAULTS = {
    "missing users": ({USER_FILE: None}, (f"{USER_FILE}: cannot be read (No such file",)),
    "empty examples": ({TRAIN: ""}, (f"{TRAIN}: empty",)),
    "truncated ad": (
        {ADS: FILES[ADS][: FILES[ADS].rindex(",")]},
        (f"{ADS}: line {1 + CAMPAIGNS}: expected 8 columns, got 7",),
    ),
    "value is no integer": (
        {USER_FILE: with_line(FILES[USER_FILE], 9, "uid 5|gender male")},
        (f"{USER_FILE}: line 9: expected whole numbers", "'male'"),
    ),
    "label 3 in the pool": (
        {TRUTH: with_line(FILES[TRUTH], 2, f"{AIDS[0]},1004,3")},
        (f"{TRUTH}: line 2: expected label 1 or -1, got '3'",),
    ),
    "aid without features": (
        {TRAIN: with_line(FILES[TRAIN], 8, "999,1004,1")},
        (f"{TRAIN}: line 8: aid 999 has no line in adFeature.csv",),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_files_leave_nothing(tmp_path, capsys, fault):
    changes, words = FAULTS[fault]
    source = write(tmp_path / "data", **changes)
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    refuses(capsys, COMMAND, *options, words=words)
    assert contents(tmp_path) <= {"data", "cache"}
    assert contents(tmp_path / "cache") == set()


@pytest.mark.parametrize(
    ("side", "words"),
    [("user", (f"{USER_FILE}: no line has", "'shoeSize'")), ("campaign", (f"{ADS}: line 1:",))],
)
def test_a_field_that_the_files_do_not_have(tmp_path, capsys, side, words):
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SMALL_SCHEMA | {side: [{"name": "shoeSize"}]}))
    options = ("--data-dir", write(tmp_path / "data"), "--schema", path)
    options += ("--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    refuses(capsys, COMMAND, *options, words=(*words, "shoeSize"))
    assert contents(tmp_path / "cache") == contents(tmp_path / "out") == set()


def test_too_few_campaigns_for_a_step(tmp_path, capsys):
    def kept(text):
        lines = text.splitlines()
        return "\n".join(x for x in lines if x.split(",")[0] in ("aid", "100", "107")) + "\n"

    source = write(tmp_path / "data", **{name: kept(FILES[name]) for name in (ADS, TRAIN, TRUTH)})
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    refuses(capsys, COMMAND, *options, words=("1 training campaigns, but a meta-step takes 2",))
    assert contents(tmp_path / "out") == set()


def forbid(monkeypatch, path: Path) -> None:
    """As if there were no right to make folders in ``path``; root would ignore its mode."""
    mkdir = Path.mkdir

    def refuse(self, *arguments, **options):
        if self.is_relative_to(path):
            raise PermissionError(13, "Permission denied", str(self))
        mkdir(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)


@pytest.mark.parametrize("option", ["--cache-dir", "--out"])
@pytest.mark.parametrize("how", ["no right", "a file", "in a file"])
def test_folders_that_cannot_be_made(source, prepared, tmp_path, capsys, monkeypatch, option, how):
    place = tmp_path / "place"
    options = {
        "--data-dir": source,
        "--cache-dir": prepared,
        "--methods": "lr",
    }
    options |= {"--out": tmp_path / "out", option: place / "in" if how == "in a file" else place}
    if how == "no right":
        forbid(monkeypatch, place)
        words = ("Permission denied", place)
    else:
        place.write_text("mine")
        words = (place,)
    refuses(capsys, COMMAND, *(x for pair in options.items() for x in pair), words=words)
    assert contents(tmp_path) == (set() if how == "no right" else {"place"})
    if how != "no right":
        assert place.read_text() == "mine"


def test_a_folder_in_the_place_of_a_file(tmp_path, capsys):
    source = write(tmp_path / "data", **{TRAIN: None})
    (source / TRAIN).mkdir()
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    refuses(
        capsys,
        COMMAND,
        *options,
        words=(f"{source / TRAIN}: is not a regular file, so it cannot be read",),
    )
    assert contents(tmp_path) <= {"data", "cache"}


class Malicious:
    """Calls a function of the system when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return Path.touch, (self.victim,)


def test_a_malicious_pickle_does_nothing(tmp_path, capsys):
    source, victim = tmp_path / "data", tmp_path / "victim"
    source.mkdir()
    content = pickle.dumps(Malicious(victim))
    for frame in official.FRAMES:
        for stage in ("stage1", "stage2"):
            (source / f"{frame}_{stage}.pkl").write_bytes(content)
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    words = (source / "train_stage1.pkl", "which is refused")
    refuses(capsys, COMMAND, *options, words=words)
    assert contents(tmp_path) == {"data"}
    pickle.loads(content)
    assert victim.exists()  # it would have done it


def test_prepared_data_is_used_again_unless_something_changed(tmp_path, capsys, monkeypatch):
    source, out = write(tmp_path / "data"), tmp_path / "out"
    # The cache in the folder of the data: it must not count as a change of the data.
    options = ("--data-dir", source, "--cache-dir", source / "cache", "--out", out)
    options += ("--methods", "lr")
    with monkeypatch.context() as patch:
        patch.setattr(runs, "run_methods", lambda *_, **__: {})
        patch.setattr(report, "write", lambda *_: None)
        succeeds(COMMAND, *options)
        (prepared,) = (source / "cache").iterdir()
        patch.setattr("metaheac_jax.data.sources.tencent.prepare", None)
        succeeds(COMMAND, *options)
        succeeds(COMMAND, *options, "--seed", 1)
        patch.undo()
    assert contents(source / "cache") == {prepared.name}
    column = prepared / "user_rows.npy"
    column.write_bytes(column.read_bytes()[:-1] + b"\7")
    refuses(capsys, COMMAND, *options, words=(f"{column}: altered since it was written",))
    (source / TRAIN).write_text(FILES[TRAIN].replace(",-1", ",0"))
    folder = tencent.prepared_folder(source, TENCENT, tencent.Options(data_dir=source))
    assert folder.name != prepared.name


def test_nobody_elses_folders_are_replaced(source, tmp_path, capsys):
    out = tmp_path / "out"
    methods = out / "seed-0" / "methods"
    methods.mkdir(parents=True)
    (methods / "thesis.tex").write_text("ten years")
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", out)
    refuses(capsys, COMMAND, *options, words=("it is not a run's folder; choose another --out",))
    assert (methods / "thesis.tex").read_text() == "ten years"
