"""What is not of the package: no command removes, replaces or changes it.

A trial lies in a folder of its own, with copies of the inputs. Some files of a stranger are planted
in it, and a command runs there. It must end well or in one line, and the stranger's files must
stay as they were, byte for byte.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest
from commands import small_simulation

from faults.flips import interrupted
from faults.scene import SETTINGS, Tally, begin, rng_of, started
from metaheac_jax.cli.main import main
from metaheac_jax.sealed import write_manifest

FOREIGN = "{}: no file of others is changed or removed"
#: Seconds after which a command hangs.
PATIENCE = 60
#: What makes each kind of folder, and which folder of the scene is an earlier output.
FOLDERS = {
    "prepare": ("prepare TABLES OUT", "DATA"),
    "add": ("add OUT --campaigns CAMPAIGNS.csv --examples EXAMPLES.csv", "DATA"),
    "lr": ("fit DATA OUT --method lr", "MODEL"),
    "fit": (f"fit DATA OUT --method metaheac --set {SETTINGS}", "MODEL"),
    "export": ("export MODEL DATA --campaign tea --out OUT", "EXPORT"),
    "simulate": ("simulate OUT --users 4000", "WORLD"),
}
#: Those of a fraction of a second, which may come to their end.
QUICK = ("prepare", "add", "lr", "export")
MANIFESTS = {"DATA": "manifest.json", "MODEL": "model.json"}
MANIFESTS |= {"EXPORT": "scorer.json", "WORLD": "world.json"}
#: Commands that write a file, with all that they read.
FILES = {
    "expand": "expand MODEL DATA --campaign tea --size 30 --pool IDS.txt --exclude GONE.txt --out",
    "seeds": "expand MODEL DATA --seeds IDS.txt --attributes ROW.json --size 30 --out",
    "explain": "explain MODEL DATA --campaign tea --size 30 --pool IDS.txt --out",
    "show": "simulate WORLD --show AUDIENCE.csv --out",
}
#: All that a command may read, and names within these folders.
INPUTS = ("DATA", "MODEL", "EXPORT", "WORLD", "TABLES", "IDS.txt", "GONE.txt", "ROW.json")
INPUTS = (*INPUTS, "AUDIENCE.csv", "CAMPAIGNS.csv", "EXAMPLES.csv", "TABLES/users.csv")
INPUTS = (*INPUTS, "DATA/manifest.json", "DATA/schema.json", "MODEL/model.json")
INPUTS = (*INPUTS, "WORLD/world.json", "WORLD/users.parquet", "WORLD/new/examples.csv")


@dataclass
class Trial:
    """A command, the folder in which it runs, and what must stay as it is there."""

    name: str
    words: str
    folder: Path
    kept: dict = field(default_factory=dict)

    def run(self, error):
        """Runs the command in this process; returns its exit code and what it tells."""
        os.ftruncate(2, 0)
        os.chdir(self.folder)
        sys.argv = ["metaheac", *self.words.split()]
        signal.alarm(PATIENCE)
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            signal.alarm(0)
        return code, Path(error).read_text()


def contents(folder):
    """All that is in a folder, by name: a file's bytes, where a link leads, or the kind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = "folder" if path.is_dir() else path.read_bytes() if path.is_file() else "other"
        kind = f"-> {path.readlink()}" if path.is_symlink() else kind
        found[str(path.relative_to(folder))] = kind
    return found


# What is planted --------------------------------------------------------------------------------


def a_file(path, _):
    path.write_text("ten years")


def an_empty_file(path, _):
    path.touch()


def a_folder(path, _):
    path.mkdir()
    (path / "thesis.txt").write_text("ten years")


def an_empty_folder(path, _):
    path.mkdir()


def a_link_to_a_file(path, stranger):
    path.symlink_to(stranger / "thesis.txt")


def a_link_to_a_folder(path, stranger):
    path.symlink_to(stranger)


def a_dangling_link(path, stranger):
    path.symlink_to(stranger / "none")


def a_pipe(path, _):
    os.mkfifo(path)


PLANTS = (a_file, an_empty_file, a_folder, an_empty_folder)
PLANTS = (*PLANTS, a_link_to_a_file, a_link_to_a_folder, a_dangling_link, a_pipe)


def write_stranger(folder):
    """A stranger's folder, with names that a command of this package may look for."""
    for name in ("thesis.txt", "7/thesis.txt", "12/thesis.txt", "values/city.npy", "model.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("ten years")


class Place:
    """The folders of the trials of one kind, and copies of what they need."""

    def __init__(self, scene, kind):
        self.scene, self.trials = scene, []
        self.folder = scene.folder / f"removals-{kind}"
        shutil.rmtree(self.folder, ignore_errors=True)

    def trial(self, name, words, needs):
        """Begins a trial with copies of some inputs; returns its folder."""
        folder = self.folder / str(len(self.trials))
        folder.mkdir(parents=True)
        write_stranger(folder / "stranger")
        for own in needs:
            source = self.scene.folder / own
            if source.is_dir():
                shutil.copytree(source, folder / own)
            else:
                shutil.copy(source, folder / own)
        self.trials.append(Trial(name, words, folder))
        return folder

    def task(self, name, task, *, older=None, training=None):
        """A trial of a command that writes a folder; ``older`` is its earlier output."""
        words = FOLDERS[task][0]
        needs = [word for word in words.split() if word[:2].isupper() and word != "OUT"]
        folder = self.trial(f"{task}, {name}", words.replace("OUT", "out"), needs)
        if older:
            shutil.copytree(self.scene.folder / older, folder / "out")
        if training:
            shutil.copytree(training, folder / "out.training")
        return folder

    def keep(self, own=()):
        """What the last trial must keep: all but files of its own that it may replace."""
        trial = self.trials[-1]
        every = contents(trial.folder)
        trial.kept = {name: what for name, what in every.items() if name not in own}

    def judged(self, tally):
        """Runs all trials in a child, and counts those that held."""
        results, error = self.folder / "results", self.folder / "error"
        arguments = (self.trials, str(results), str(error), str(self.scene.folder / "compiled"))
        child = started(run_all, *arguments)
        child.join()
        codes = [json.loads(line) for line in results.read_text().splitlines()]
        for number, trial in enumerate(self.trials):
            code, told = codes[number] if number < len(codes) else (child.exitcode, "it has ended")
            after = contents(trial.folder)
            lost = [name for name, own in trial.kept.items() if after.get(name) != own]
            lines = [line for line in told.splitlines() if not line.startswith("warning: ")]
            refused = code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
            fault = None
            if lost:
                fault = f"exit {code}, changed or removed: {lost[:3]}"
            elif code != 0 and not refused:
                fault = f"exit {code}: {' | '.join(told.splitlines()[-4:])[-400:]}"
            tally.add(trial.name, fault)
        return tally


def run_all(trials, results, error, compiled):
    """Runs trials one after the other in a child, since programs are compiled once."""
    begin(error, compiled)
    with pytest.MonkeyPatch.context() as patch, small_simulation():
        patch.setattr("metaheac_jax.backend.check_backend", lambda: None)
        for trial in trials:
            with Path(results).open("a") as file:
                file.write(json.dumps(trial.run(error)) + "\n")


def chosen(kind, variants, trials):
    """Some of the variants, at random but the same in every run."""
    order = rng_of("removals", kind).permutation(len(variants))[:trials]
    return [variants[number] for number in sorted(order)]


# Kinds of trials --------------------------------------------------------------------------------


def replaced_folders(scene, trials):
    """Something of a stranger lies at any level in the older output of a command, or is it."""
    tally, place = Tally(FOREIGN.format("in or in place of an older output")), Place(scene, "old")
    names = ("", "audiences.csv", ".hidden", "12", "user_rows-0123456789abcdef.npy")
    names = (
        *names,
        "notes\x1b.txt",
        "new/notes",
        "values/notes.npy",
        "manifest.json.bak",
        "x.metaheac-new",
    )
    for task, name, plant in chosen("old", [*product(FOLDERS, names, PLANTS)], trials):
        older = FOLDERS[task][1]
        folder = place.task(f"{plant.__name__} {name!r}", task, older=older)
        own = {f"out/{name}" for name in contents(folder / "out")} | {"out"}
        target = folder / "out" / name
        if not name:
            shutil.rmtree(target)
            own = set()
        target.parent.mkdir(parents=True, exist_ok=True)
        plant(target, folder / "stranger")
        if not name and plant is an_empty_folder:  # which may be filled
            own = {"out"}
        place.keep(own)
    return place.judged(tally)


def replaced_parts(scene, trials):
    """A link or a pipe of a stranger has taken the place of a file or folder of an output."""
    tally, place = Tally(FOREIGN.format("in place of a part of an output")), Place(scene, "part")
    plants = (a_folder, a_link_to_a_file, a_link_to_a_folder, a_dangling_link, a_pipe)
    kinds = [(task, plant, number) for task in FOLDERS for plant in plants for number in range(9)]
    for task, plant, number in chosen("part", kinds, trials):
        older = FOLDERS[task][1]
        folder = place.task(f"{plant.__name__} {number}", task, older=older)
        every = sorted((folder / "out").rglob("*"))
        hit = every[rng_of(task, number).integers(len(every))]
        shutil.rmtree(hit) if hit.is_dir() else hit.unlink()
        own = {f"out/{name}" for name in contents(folder / "out")} | {"out"}
        plant(hit, folder / "stranger")
        place.keep(own)
    return place.judged(tally)


def trainings(scene, trials):
    """Something of a stranger lies at any level of the folder of a training, or is it."""
    tally, place = Tally(FOREIGN.format("in a training's folder")), Place(scene, "training")
    begun = interrupted(scene).with_name("out.training")
    levels = ["", "notes.txt", "12", "2024", "checkpoints", "checkpoints/notes.txt"]
    levels += ["checkpoints/2024", "STEP", "STEP/notes.txt", "STEP/state/notes.txt"]
    levels += ["solved-head/notes.txt", "solved-head/2024", "run.json", "checkpoints.json"]
    plants = [plant for plant in PLANTS if plant is not an_empty_folder]  # as a killed one leaves
    kinds = [*product(("lr", "fit"), levels, plants, (None, begun))]
    for task, level, plant, training in chosen("training", kinds, trials):
        name = f"{plant.__name__} {level!r}{', begun' if training else ''}"
        folder = place.task(name, task, training=training)
        work = folder / "out.training"
        if level.startswith("STEP"):
            steps = sorted(path.parent for path in work.rglob("[0-9]*/checkpoint.json"))
            level = level.replace("STEP", str(steps[0].relative_to(work)) if steps else "3")
        target = work / level
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            shutil.rmtree(target)
        target.unlink(missing_ok=True)
        own = {f"out.training/{n}" for n in contents(work)} if work.exists() else set()
        if not level and plant is an_empty_folder:
            own = {"out.training"}
        plant(target, folder / "stranger")
        place.keep(own | ({"out.training"} if level else set()))
    return place.judged(tally)


def temporary_names(scene, trials):
    """Links of a stranger have the temporary names that the package uses beside an output."""
    tally, place = Tally(FOREIGN.format("links with temporary names")), Place(scene, "beside")
    endings = ("lock", "metaheac-new", "metaheac-old")
    links = (a_link_to_a_file, a_link_to_a_folder, a_dangling_link)
    for task, ending, plant in chosen("beside", [*product(QUICK, endings, links)], trials):
        name = f"{plant.__name__} .out.{ending}"
        older = FOLDERS[task][1] if len(place.trials) % 2 else None
        if task == "add":
            older = "DATA"
        folder = place.task(name, task, older=older)
        own = {f"out/{n}" for n in contents(folder / "out")} | {"out"}
        place.keep(own)
        plant(folder / f".out.{ending}", folder / "stranger")
    return place.judged(tally)


def forged(scene, trials):
    """A stranger's folder has a manifest that is forged, copied or leads elsewhere."""
    tally, place = Tally(FOREIGN.format("with a forged manifest")), Place(scene, "forged")
    entry = {"bytes": 9, "sha256": "0" * 64}
    listed = {"thesis.txt": entry, "7/thesis.txt": entry, "../stranger/thesis.txt": entry}
    ways = ("no digest", "wrong digest", "elsewhere", "copied", "linked", "a pipe", "a folder")
    ways = (*ways, "broken", "a list", "no files", "a number")
    tasks = [name for name in FOLDERS if name != "add"]
    for task, way, deep in chosen("forged", [*product(tasks, ways, (False, True))], trials):
        older = FOLDERS[task][1]
        name = MANIFESTS[older]
        format = json.loads((scene.folder / older / name).read_text())["format"]
        work = task in ("lr", "fit") and deep
        folder = place.task(f"{way}{' of a training' if work else ''}", task)
        target = folder / ("out.training" if work else "out")
        shutil.move(folder / "stranger", target)
        write_stranger(folder / "stranger")
        (target / "model.json").unlink()
        path = target / ("run.json" if work else name)
        format = "metaheac_jax run 1" if work else format
        body = {"format": format, "files": listed}
        if way == "no digest":
            path.write_text(json.dumps(body))
        elif way == "wrong digest":
            path.write_text(json.dumps(body | {"digest": "0" * 64}))
        elif way == "elsewhere":
            outside = {f"../stranger/{n}": entry for n in ("thesis.txt", "7/thesis.txt")}
            outside[str(folder / "stranger" / "12" / "thesis.txt")] = entry
            write_manifest(path, {"format": format, "files": outside})
        elif way == "copied":
            shutil.copy(scene.folder / older / name, path)
        elif way == "linked":
            path.symlink_to(scene.folder / older / name)
        elif way == "a pipe":
            os.mkfifo(path)
        elif way == "a folder":
            path.mkdir()
        elif way == "broken":
            path.write_text('{"format": "metaheac_jax')
        elif way == "a list":
            path.write_text('["metaheac_jax "]')
        elif way == "no files":
            write_manifest(path, {"format": format})
        else:
            write_manifest(path, {"format": format, "files": 7})
        place.keep()
    return place.judged(tally)


def outputs(scene, trials):
    """An output is an input, lies in one or holds one, under several spellings."""
    tally, place = Tally(FOREIGN.format("an output that is an input")), Place(scene, "inputs")
    spellings = ("plain", "dotted", "linked file", "linked folder", "new beside")
    commands = [*FILES, "prepare", "lr", "export", "prepare-exclude"]
    kinds = [*product(commands, INPUTS, spellings), *product(commands, ["."], ["plain"])]
    for command, given, spelling in chosen("inputs", kinds, trials):
        if command == "prepare-exclude":
            words = "prepare TABLES OUT --exclude GONE.txt"
        else:
            words = f"{FILES[command]} OUT" if command in FILES else FOLDERS[command][0]
        folder = place.trial(f"{command}, {spelling} {given}", "", list(INPUTS[:11]))
        out = given
        if spelling == "dotted":
            out = f"stranger/../{given}"
        elif spelling == "linked file":
            out = f"link{Path(given).suffix}"
            (folder / out).symlink_to(given)
        elif spelling == "linked folder" and "/" in given:
            (folder / "link").symlink_to(Path(given).parent)
            out = f"link/{Path(given).name}"
        elif spelling == "new beside":
            out = f"{given}/a.csv" if (folder / given).is_dir() else f"{given}.csv"
        place.trials[-1].words = words.replace("OUT", out)
        read = [word for word in words.split() if word[:2].isupper() and word != "OUT"]
        touched = str(Path(given))
        is_own = spelling != "new beside" and not any(
            r == touched or r.startswith(f"{touched}/") or touched.startswith(f"{r}/") for r in read
        )
        own = set()
        if is_own and touched != ".":  # the command may replace what it does not read
            own = {n for n in contents(folder) if n == touched or n.startswith(f"{touched}/")}
        place.keep(own)
    return place.judged(tally)


def training_inputs(scene, _):
    """The folder of a training is an input, since it has the name of one."""
    tally, place = Tally(FOREIGN.format("an input named as a training")), Place(scene, "named")
    for task, given in product(("lr", "fit"), ("DATA", "MODEL")):
        words = FOLDERS[task][0].replace("OUT", "out")
        folder = place.trial(f"{task}, {given}", words, ["DATA", "MODEL"])
        (folder / given).rename(folder / "out.training")
        if given == "DATA":
            place.trials[-1].words = words.replace("DATA", "out.training")
        place.keep()
    return place.judged(tally)


def prepared(scene):
    """Adds the files to a scene that commands read with their rarer options."""
    folder = scene.folder
    if (folder / "WORLD").exists():
        return
    (folder / "IDS.txt").write_text("\n".join(map(str, range(0, 100, 2))))
    (folder / "GONE.txt").write_text("7\n9\n")
    (folder / "ROW.json").write_text('{"topic": "t3"}')
    words = "simulate WORLD --users 4000"
    place = Place(scene, "made")
    place.trials.append(Trial("made", words, folder))
    assert not place_run(place).failures
    campaign = (folder / "WORLD" / "new" / "examples.csv").read_text().splitlines()[1].split(",")
    (folder / "AUDIENCE.csv").write_text(f"campaign_id,user_id\n{campaign[0]},{campaign[1]}\n")


def place_run(place):
    place.folder.mkdir()
    return place.judged(Tally("made"))


#: Each kind, and its share of the trials.
KINDS = {
    replaced_folders: 1.0,
    replaced_parts: 0.5,
    trainings: 1.0,
    temporary_names: 0.4,
    forged: 0.8,
    outputs: 1.5,
    training_inputs: 1.0,
}


def removals(scene, trials):
    """The tallies of all kinds."""
    prepared(scene)
    return [kind(scene, max(1, round(share * trials))) for kind, share in KINDS.items()]
