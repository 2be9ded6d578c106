"""A tiny world with all files that commands read, and the commands that write files.

A `Task` is a command with a known result: whatever happens to it, it must reach that result or
report in one line what is wrong.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import shutil
import traceback
from pathlib import Path

import jax
import numpy as np
import tables_world
import tencent_world
from commands import exit_code, module, small_simulation, tiny_settings
from jax.experimental.compilation_cache import compilation_cache

from experiments import tencent
from metaheac_jax.cli.main import main
from metaheac_jax.data.storage import open_dataset

USERS = 4000
KEPT = Path(__file__).parents[1] / "fixtures" / "0.2"
OUTPUTS = ("*.npy", "*.parquet", "*.csv", "*.data", "*.stablehlo", "*.npz", "methods/*.json")


class Tally:
    """Trials of one promise: their number, how many held, and the failures of the others."""

    def __init__(self, promise):
        self.promise, self.trials, self.failures = promise, 0, []

    def add(self, trial, failure=None):
        """Counts a trial; ``failure`` is None if the promise held."""
        self.trials += 1
        if failure is not None:
            self.failures.append(f"{trial}: {failure}")
            print(f"  FAILED {self.promise}: {trial}: {failure}", flush=True)

    @property
    def held(self):
        return self.trials - len(self.failures)


@dataclasses.dataclass(frozen=True)
class Task:
    """A command that writes ``out``.

    Attributes:
      words: its arguments; "OUT" stands for the path of its output.
      goes_on: further arguments that resume it after an interruption.
      needs: name in the scene of a folder that is first copied to OUT.
    """

    words: tuple[str, ...]
    goes_on: tuple[str, ...] = ()
    needs: str = ""
    start: object = main


class Scene:
    """Files of a toy data set: tables, data, a model, a campaign's folder, and the tasks."""

    def __init__(self, folder):
        self.folder, at = folder, lambda name: str(folder / name)
        campaign = ("--seeds", at("seeds.csv"), "--attributes", at("attributes.json"))
        more = ("--seeds", at("many_seeds.csv"), *campaign[2:])
        data, one = ("--data", at("data")), ("--least-seeds", "5")
        many = ("expand", at("model"), *data, *one)
        compare = ("--data-dir", at("competition"), "--cache-dir", "OUT/cache", "--out", "OUT")
        compare += ("--methods", "lr", "mlp-pretraining", "--schema", at("small.json"))
        self.tasks = {
            "simulate": Task(("simulate", "OUT", "--world", "wechat", "--users", str(USERS))),
            "prepare": Task(("prepare", at("tables"), "OUT", "--schema", at("schema.json"))),
            "prepare competition": Task(("prepare", at("competition"), "OUT")),
            "fit": Task(("fit", at("data"), "OUT", "--epochs", "4"), ("--resume",)),
            "customise": Task(("customise", at("model"), *data, *campaign, *one, "--out", "OUT")),
            "expand": Task((*many, *campaign, "--size", "30", "--out", "OUT.csv")),
            "expand --campaigns": Task(
                (*many, "--campaigns", at("two.jsonl"), "--size", "20", "--out", "OUT")
            ),
            "feedback": Task(("feedback", "OUT", at("shown.csv")), needs="tea"),
            "update": Task(("update", "OUT", *data), needs="fed"),
            "export": Task(("export", at("tea"), *data, "--out", "OUT")),
            "curve": Task(("curve", at("model"), *data, *more, "--out", "OUT.csv")),
            "traits": Task(("traits", at("audience.csv"), *data, *more[:2], "--out", "OUT.csv")),
            "overlap": Task(("overlap", at("audience.csv"), at("other.csv"), "--out", "OUT.csv")),
            "compare": Task(compare, ("--resume",), start=module(tencent)),
        }

    def make(self):
        """Writes the files; returns the scene."""
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("data", "model", "tea"):
            shutil.copytree(KEPT / name, folder / name)
        data = open_dataset(folder / "data")
        tables_world.write(folder / "tables", *tables_world.world())
        schema = json.dumps(tables_world.SCHEMA.to_json())
        (folder / "schema.json").write_text(schema)
        tencent_world.write(folder / "competition")
        (folder / "small.json").write_text(json.dumps(tencent_world.SMALL_SCHEMA))
        seeds, attributes = data.user_ids[:20].tolist(), {"advertiser": 2, "category": 1}
        (folder / "seeds.csv").write_text("\n".join(map(str, seeds)) + "\n")
        enough = data.user_ids[:60].tolist()  # to hold some out
        (folder / "many_seeds.csv").write_text("\n".join(map(str, enough)) + "\n")
        (folder / "attributes.json").write_text(json.dumps(attributes))
        entry = {"seeds": "seeds.csv", "attributes": attributes}
        lines = [json.dumps({"name": name, **entry}) for name in ("a", "b")]
        (folder / "two.jsonl").write_text("\n".join(lines))
        shown = [f"{key},{number % 3 == 0:d}" for number, key in enumerate(data.user_ids[20:60])]
        (folder / "shown.csv").write_text("user_id,converted\n" + "\n".join(shown) + "\n")
        for name, users in (("audience", slice(20, 60)), ("other", slice(40, 80))):
            ids = "\n".join(map(str, data.user_ids[users]))
            (folder / f"{name}.csv").write_text(f"user_id\n{ids}\n")
        shutil.copytree(folder / "tea", folder / "fed")
        self.must("feedback", folder / "fed")
        return self

    def begin(self, name, out):
        """Copies the files that a task needs to their place."""
        needs = self.tasks[name].needs
        if needs:
            shutil.copytree(self.folder / needs, out)
            shutil.copytree(self.folder / "model", out.with_name("model"))  # by a relative path

    def run(self, name, out, *, goes_on=False):
        """Runs a task; returns its exit code and stderr."""
        task = self.tasks[name]
        words = task.words + (task.goes_on if goes_on else ())
        return quietly(task.start, *(word.replace("OUT", str(out)) for word in words))

    def must(self, name, out):
        """Runs a task undisturbed; it must succeed."""
        if not out.exists():
            self.begin(name, out)
        code, error = self.run(name, out)
        assert code in (None, 0), f"{name}: {error}"
        return self

    def finish(self, name, out):
        """Resumes a disturbed task, or starts it again; returns its exit code and stderr."""
        return self.run(name, out, goes_on=self.may_go_on(name, out))

    def may_go_on(self, name, out):
        return name != "compare" or (out / "seed-0" / "config.json").is_file()


def quietly(start, *words):
    """Exit code and stderr of a command in this process; the code is 1 if it raises."""
    error = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        try:
            code = exit_code(start, *words)
        except BaseException as raised:
            if isinstance(raised, KeyboardInterrupt):
                raise
            code = 1
            error.write("".join(traceback.format_exception(raised)[-6:]))
    return code, error.getvalue()


def refusal(code, error):
    """What is wrong with a command's refusal; None if it exits with 2 and prints one line."""
    lines = [line for line in error.splitlines() if not line.startswith("warning: ")]
    if code == 2 and len(lines) == 1 and lines[0].startswith("error: "):
        return None
    return f"exit {code}, {' | '.join(error.splitlines()[-6:])[-600:]}"


def fingerprint(out):
    """Digests of a task's output files, by name; empty if there are none."""
    if out.with_suffix(".csv").is_file():
        out = out.with_suffix(".csv")
    files = [out] if out.is_file() else sorted(p for s in OUTPUTS for p in out.rglob(s))
    kept = [p for p in files if not {"cache", "checkpoints"} & set(p.relative_to(out).parts)]
    return {str(path.relative_to(out)): _digest(path) for path in kept}


def _digest(path):
    content = path.read_bytes()
    if path.suffix == ".json":  # of a method: omits seconds and versions
        content = json.dumps(json.loads(content)["campaigns"]).encode()
    if path.suffix == ".stablehlo":  # its names depend on what the process traced before
        content = content[:4]
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def compiled_in(folder: Path):
    """Uses a folder for compiled programs instead of the one that is configured."""
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: jax.config.values[name] for name in options}

    def use(values):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    use(options)
    try:
        yield
    finally:
        use(before)


@contextlib.contextmanager
def tiny_world(compiled):
    """Settings with which every task takes a second or two.

    Compiled programs go to a separate folder, since a process may be killed while it writes one.
    """
    with small_simulation(12, USERS), tiny_settings(), compiled_in(compiled):
        yield


def open_scene(folder):
    """Opens the scene in a folder, or makes it if there is none."""
    scene = Scene(Path(folder))
    return scene if (scene.folder / "fed" / "campaign.json").is_file() else scene.make()


def rng_of(*key):
    """A random generator per trial, the same in every run."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8])
    return np.random.default_rng(seed)
