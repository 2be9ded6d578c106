"""A tiny world with the files that commands read, and the commands that write files.

A `Task` is a command with a known result. Each runs in a process of its own, which is forked from
one that has imported everything.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # before jax is imported

import jax
import numpy as np
import polars as pl

from metaheac_jax.backend import CPU_OPTIONS
from metaheac_jax.cli.main import main
from metaheac_jax.schema import Field, Schema
from metaheac_jax.training import loop

SETTINGS = "width=4 num_experts=2 num_critics=2 batch_size=32 campaigns_per_step=2 "
SETTINGS += "offline_epochs=3 offline_patience=none online_epochs=1 online_patience=none"


@dataclass(frozen=True)
class Task:
    """A command that writes a file or folder.

    Attributes:
      words: its arguments; those in capitals are names in the scene, OUT is what it writes.
      ending: of the name of OUT.
      needs: name in the scene of a folder that is first copied to OUT.
    """

    words: str
    ending: str = ""
    needs: str = ""


TASKS = {
    "prepare": Task("prepare TABLES OUT"),
    "add": Task("add OUT --campaigns CAMPAIGNS.csv --examples EXAMPLES.csv", needs="DATA"),
    "fit": Task(f"fit DATA OUT --method metaheac --set {SETTINGS}"),
    "expand": Task("expand MODEL DATA --campaign tea --size 30 --out OUT", ".csv"),
    "explain": Task("explain MODEL DATA --campaign tea --size 30 --out OUT", ".json"),
    "export": Task("export MODEL DATA --campaign tea --out OUT"),
}


#: The tasks with which a scene is made.
MADE = ("prepare", "add", "fit", "export")


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

    def judge(self, trial, run, same):
        """Adds a trial: a reader's exit code and messages, and whether its result is the same.

        It must refuse in one line and with code 2, or have the same result.
        """
        code, told = run
        lines = [line for line in told.splitlines() if not line.startswith("warning: ")]
        if code == 0:
            self.add(trial, None if same() else "another result")
        elif code == 2 and len(lines) == 1 and lines[0].startswith("error: "):
            self.add(trial)
        else:
            self.add(trial, f"exit {code}, {' | '.join(told.splitlines()[-6:])[-600:]}")

    @property
    def held(self):
        return self.trials - len(self.failures)


class Scene:
    """The files of the world, and what each task makes of them."""

    def __init__(self, folder):
        self.folder, self.results, self.seconds = Path(folder), {}, {}

    def make(self):
        """Writes the files; returns the scene."""
        write_tables(self.folder / "TABLES")
        write_new_campaign(self.folder)
        for name, place in (("prepare", "DATA"), ("add", "DATA"), ("fit", "MODEL")):
            self.must(name, self.folder / place)
        self.must("export", self.folder / "EXPORT")
        return self

    def result(self, name):
        """The fingerprint of what a task writes if nothing disturbs it; also times it."""
        if name not in self.results:
            for _ in range(1 if name in MADE else 2):  # the first one compiles
                out = self.place("whole", name)
                began = time.perf_counter()
                self.must(name, out)
                self.seconds[name] = time.perf_counter() - began
            self.results[name] = fingerprint(out)
            assert self.results[name]
        return self.results[name]

    def place(self, folder, name):
        """A new folder for a task's output; returns the path of the output."""
        task, folder = TASKS[name], self.folder / folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        out = folder / f"out{task.ending}"
        if task.needs:
            shutil.copytree(self.folder / task.needs, out)
        return out

    def start(self, name, out, **others):
        """Starts a task; ``others`` are paths to use instead of those of the scene."""
        task = TASKS[name]
        paths = {"OUT": out, **others}
        words = task.words.split()
        given = [str(paths.get(w, self.folder / w)) if w[:2].isupper() else w for w in words]
        error = out.with_name("error")
        return started(run_command, given, str(error), str(self.folder / "compiled")), error

    def run(self, name, out, **options):
        """Runs a task to its end; returns its exit code and what it tells."""
        child, error = self.start(name, out, **options)
        child.join()
        return child.exitcode, error.read_text()

    def must(self, name, out):
        """Runs a task undisturbed; it must succeed."""
        code, told = self.run(name, out)
        assert code == 0, f"{name}: {told}"


def started(function, *arguments):
    """Starts a child process that runs a function."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults.scene"])
    child = context.Process(target=function, args=arguments, daemon=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the process that forks
    child.start()
    return child


def begin(error, compiled):
    """Prepares a child: its streams, and where its compiled programs are.

    They have a folder of their own, since a process may be killed while it writes one. A training
    saves every fourth step, or it would save nothing.
    """
    loop.Training.__init__.__kwdefaults__.update(log_every=4, save_seconds=0)
    descriptor = os.open(error, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    jax.config.update("jax_disable_most_optimizations", True)
    CPU_OPTIONS["xla_backend_optimization_level"] = 0
    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def run_command(words, error, compiled):
    """Runs a command in a child."""
    begin(error, compiled)
    sys.argv = ["metaheac", *words]
    main()


def fingerprint(out):
    """Digests of the results in an output, by name; empty if it is absent."""
    if out.is_file():
        return {"": _digest(out)}
    kinds = ("*.npy", "*.npz", "*.parquet")
    return {str(p.relative_to(out)): _digest(p) for kind in kinds for p in sorted(out.rglob(kind))}


def _digest(path):
    content = path.read_bytes()
    if path.suffix == ".json":
        content = json.dumps(json.loads(content) | {"date": ""}).encode()
    return hashlib.sha256(content).hexdigest()


def rng_of(*key):
    """A random generator per trial, the same in every run."""
    seed = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8])
    return np.random.default_rng(seed)


def write_tables(folder):
    """Tables of 400 users, and of 8 campaigns that each convert the users of one city."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    schema = Schema((Field("city"), Field("likes")), (Field("topic"),))  # without histories
    (folder / "schema.json").write_text(json.dumps(schema.to_json()))
    city, likes = rng.integers(0, 8, 400), rng.integers(0, 30, 400)
    users = {"user_id": range(400), "city": [f"c{c}" for c in city], "likes": likes}
    pl.DataFrame(users).write_csv(folder / "users.csv")
    campaigns = {"campaign_id": [f"old{n}" for n in range(8)], "topic": [f"t{n}" for n in range(8)]}
    pl.DataFrame(campaigns).write_csv(folder / "campaigns.csv")
    shown = [rng.permutation(400)[:120] for _ in range(8)]
    examples = pl.DataFrame({
        "campaign_id": np.repeat(campaigns["campaign_id"], 120),
        "user_id": np.concatenate(shown),
        "label": np.concatenate([rng.random(120) < 0.1 + 0.6 * (city[u] == n)
                                 for n, u in enumerate(shown)]).astype(int),
        "stage": np.tile([1, 1, 2], 320),
    })  # fmt: skip
    examples.write_csv(folder / "examples.csv")


def write_new_campaign(folder):
    """A campaign with 60 seeds, of which some were found by an audience of an earlier day."""
    (folder / "CAMPAIGNS.csv").write_text("campaign_id,topic\ntea,t3\n")
    rows = [f"tea,{user},{int(user % 5 < 3)},{int(user > 80)}" for user in range(100)]
    rows.insert(0, "campaign_id,user_id,label,audience")
    (folder / "EXAMPLES.csv").write_text("\n".join([*rows, ""]))
