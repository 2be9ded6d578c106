"""Kills at random times: the next run completes a command's work, to the same bits.

Children are forked from a process that has imported everything, run a command, and are killed.
"""

import contextlib
import multiprocessing
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import toy

from faults.scene import Scene, Tally, fingerprint, open_scene, rng_of, tiny_world
from metaheac_jax.backend import set_cpu_flags
from metaheac_jax.data.storage import open_dataset, write_dataset
from metaheac_jax.methods import method_named
from metaheac_jax.model import load, save
from metaheac_jax.training import loop
from metaheac_jax.training.checkpoint import Checkpoints

PROMISE = "a kill while {}: the next run reaches the same bits"
#: Kills of a command before it may finish.
CHAIN = 5
#: Fraction of the trials, by the work that is killed.
SHARES = {
    "saving checkpoints": 0.25,
    "saving models": 0.2,
    "saving data": 0.2,
    "prepare": 0.1,
    "fit": 0.125,
    "customise": 0.05,
    "expand --campaigns": 0.025,
    "compare": 0.05,
}


def start(function, *arguments):
    """Starts a child process that runs a function of this module."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["faults.kills"])
    child = context.Process(target=function, args=arguments, daemon=True)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the process that forks
    child.start()
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before
    return child


def kill(child, seconds):
    """Kills a child after some seconds; returns whether it was still running."""
    child.join(seconds)
    running = child.is_alive()
    child.kill()
    child.join()
    return running


def run_task(folder, name, out, goes_on, error):
    """Runs a task in a child; a training saves every third step."""
    _prepare(error)
    # At its usual interval, a training of a few seconds would save nothing.
    loop.train.__kwdefaults__.update(save_every=3, log_every=3)
    with tiny_world(Path(folder).parent / "compiled"):
        code, told = Scene(Path(folder)).run(name, Path(out), goes_on=goes_on)
    sys.stderr.write(told)
    sys.stderr.flush()
    os._exit(code or 0)


def _prepare(error):
    descriptor = os.open(error, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    set_cpu_flags()
    jax.config.update("jax_disable_most_optimizations", True)


def kill_task(folder, name, trials):
    """Kills a task at random times of its run, several times before it may finish."""
    tally, scene = Tally(PROMISE.format(name)), Scene(folder / "scene")
    error, work = folder / "error", folder / "killed"

    def run(out, *, goes_on=False):
        return start(run_task, str(scene.folder), name, str(out), goes_on, str(error))

    shutil.rmtree(work, ignore_errors=True)
    (work / "whole").mkdir(parents=True)
    for _ in range(2):  # the first one compiles
        shutil.rmtree(work / "whole")
        (work / "whole").mkdir()
        began = time.perf_counter()
        child = run(work / "whole" / "out")
        child.join()
        seconds = time.perf_counter() - began
    expected = fingerprint(work / "whole" / "out")
    assert child.exitcode == 0, error.read_text()
    assert expected
    hits = 0
    for first in range(0, trials, CHAIN):
        rng, out = rng_of(name, first), work / "here" / "out"
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir()
        kills = min(CHAIN, trials - first)
        for _ in range(kills):
            child = run(out, goes_on=scene.may_go_on(name, out))
            hits += kill(child, seconds * rng.uniform(0.1, 1.05))
        for _ in range(kills - 1):
            tally.add("")
        child = run(out, goes_on=scene.may_go_on(name, out))
        child.join()
        fault = None
        if child.exitcode != 0:
            fault = f"exit {child.exitcode}: {error.read_text()[-400:]}"
        elif fingerprint(out) != expected:
            fault = "another result"
        elif left := {p.name for p in out.parent.iterdir()} - {"out"}:
            fault = f"left behind: {sorted(left)}"
        tally.add(f"kills {first} to {first + kills}", fault)
    print(f"  {name}: {hits} of {trials} kills came before its end", flush=True)
    return tally


# Saving ----------------------------------------------------------------------------------------


def state_of(number):
    rng = np.random.default_rng(number)
    return {"table": rng.normal(size=(3000, 16)), "bias": rng.normal(size=5)}


def general_of(number):
    """A model that is different for each number."""
    data = toy.dataset(users=100, campaigns=3, per_campaign=30, pool=5)
    general = method_named("cosine").fit(data)
    return replace(general, seed=number, state={"values": np.arange(9000.0) * number})


def data_of(number):
    return toy.dataset(users=300 + number, campaigns=3, per_campaign=30, pool=5, seed=0)


def save_for_ever(kind, folder, done, error):
    """Saves states with increasing numbers; ``done`` is the number of the last one on disk."""
    _prepare(error)
    with contextlib.ExitStack() as stack:
        if kind == "saving checkpoints":
            checkpoints = stack.enter_context(Checkpoints(Path(folder)))
        number = done.value
        while True:
            number += 1
            match kind:
                case "saving checkpoints":
                    checkpoints.save(number, jax.tree.map(jax.numpy.asarray, state_of(number)))
                    checkpoints.wait()
                case "saving models":
                    save(general_of(number), folder)
                case "saving data":
                    write_dataset(data_of(number), Path(folder))
            done.value = number


def kill_saving(folder, kind, trials):
    """Kills a process that saves; the newest state must be whole, the last noted or the next."""
    tally = Tally(PROMISE.format(kind))
    target = folder / kind.replace(" ", "-")
    shutil.rmtree(target, ignore_errors=True)
    done = multiprocessing.get_context("forkserver").Value("q", 0)
    for trial in range(trials):
        rng, before = rng_of(kind, trial), done.value
        child = start(save_for_ever, kind, str(target), done, str(folder / "error"))
        began = time.perf_counter()
        while done.value == before and child.is_alive() and time.perf_counter() - began < 60:
            time.sleep(0.002)
        kill(child, rng.uniform(0, 0.15))
        if done.value == before:
            tally.add(trial, f"saved nothing: {(folder / 'error').read_text()[-300:]}")
            continue
        found, fault = _newest(kind, target)
        if found not in (done.value, done.value + 1):
            fault = f"{found} is there, {done.value} was said to be: {fault}"
        done.value = found or done.value
        tally.add(trial, fault)
    return tally


def _newest(kind, target):
    """The number of the newest state, and what is wrong with it, or None."""
    try:
        match kind:
            case "saving checkpoints":
                with Checkpoints(target) as checkpoints:
                    state = checkpoints.restore(jax.tree.map(jax.numpy.asarray, state_of(0)))
                    found = checkpoints.latest
                expected = jax.tree.map(jax.numpy.asarray, state_of(found))
                same = all(map(np.array_equal, jax.tree.leaves(state), jax.tree.leaves(expected)))
                return found, None if same else "another state"
            case "saving models":
                general = load(target)
                same = np.array_equal(general.state["values"], np.arange(9000.0) * general.seed)
                return general.seed, None if same else "another state"
            case _:
                return open_dataset(target).num_users - 300, None
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def run(folder, trials, names=tuple(SHARES)):
    """Makes ``trials`` kills in all, distributed by `SHARES`."""
    with tiny_world(folder / "compiled"):
        open_scene(folder / "scene")
    tallies = []
    for name in names:
        function = kill_saving if name.startswith("saving") else kill_task
        tallies.append(function(folder, name, max(1, round(trials * SHARES[name]))))
        print(f"  {name}: {tallies[-1].held} of {tallies[-1].trials}", flush=True)
    return tallies
