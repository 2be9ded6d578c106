"""Damaged checkpoints (of real size), data, models and campaigns: never taken for intact ones."""

import os
import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from damages import DAMAGES, inflict

from faults.scene import Tally, rng_of
from metaheac_jax.audience.campaign_folder import read_campaign
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.model import load
from metaheac_jax.training.checkpoint import Checkpoints

CHECKPOINTS = "a damaged checkpoint: the one before is used, and a line says so"
DATA = "damaged {}: refused in one line"


def state_of(step):
    """7.4 MB in arrays of many sizes, like the state of a training."""
    rng = np.random.default_rng(step)
    sizes = {"table": (38_000, 16), "mu": (38_000, 16), "nu": (38_000, 16)}
    sizes |= {f"kernel{i}": (64, 64) for i in range(8)} | {f"bias{i}": (64,) for i in range(8)}
    return {name: jnp.asarray(rng.normal(size=size), jnp.float32) for name, size in sizes.items()}


def linked(source, target):
    """A copy whose files are hard links; a damage replaces the file, not the original."""
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target, copy_function=os.link)


def victim(folder, rng):
    """A random file of a folder, and a random damage."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    # Half of all damages hit a large file.
    if rng.random() < 0.5:
        files = sorted(files, key=lambda path: path.stat().st_size)[-3:]
    path = files[rng.integers(len(files))]
    return path, list(DAMAGES)[rng.integers(len(DAMAGES))]


def hurt(folder, rng):
    """Damages a file; returns which and how, or None if the bytes are unchanged."""
    path, damage = victim(folder, rng)
    before = path.read_bytes()
    inflict(path, damage, rng)
    same = path.exists() and path.read_bytes() == before
    return None if same else f"{damage} of {path.relative_to(folder)}"


def checkpoints(folder, trials):
    """Damages the newer of two checkpoints, and sometimes both."""
    tally, whole = Tally(CHECKPOINTS), folder / "checkpoints"
    shutil.rmtree(whole, ignore_errors=True)
    states = {step: state_of(step) for step in (3, 7)}
    with Checkpoints(whole) as saved:
        for step, state in states.items():
            saved.save(step, state)
    trial = 0
    while tally.trials < trials:
        trial, rng = trial + 1, rng_of("checkpoint", trial)
        hit = linked(whole, folder / "hit")
        both = rng.random() < 0.1
        told = [hurt(hit / step, rng) for step in (("7", "3") if both else ("7",))]
        if None not in told:
            tally.add(told, _checkpoint_fault(hit, states, both=both))
    return tally


def _checkpoint_fault(hit, states, *, both):
    with warnings.catch_warnings(record=True) as caught, Checkpoints(hit) as saved:
        warnings.simplefilter("always")
        try:
            state = saved.restore(states[3])
        except InputError as error:
            fine = both and str(error).count("\n") == 0 and "damaged" in str(error)
            return None if fine else f"refused: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    if both or saved.latest != 3 or not any("damaged" in str(w.message) for w in caught):
        return f"step {saved.latest} was taken, told {[str(w.message) for w in caught]}"
    same = jax.tree.all(jax.tree.map(np.array_equal, state, states[3]))
    return None if same else "another state"


READERS = {"data": open_dataset, "model": load, "campaign": read_campaign}


def folders(scene, folder, trials):
    """Damages prepared data, models and campaigns."""
    tallies = []
    for what, read in READERS.items():
        tally, source, trial = Tally(DATA.format(what)), {"campaign": "tea"}.get(what, what), 0
        while tally.trials < trials:
            trial, rng = trial + 1, rng_of(what, trial)
            hit = linked(scene.folder / source, folder / "hit")
            if what == "model":
                shutil.rmtree(hit / "optimizer", ignore_errors=True)  # read only on request
            told = hurt(hit, rng)
            if told is None:
                continue
            try:
                read(hit)
            except InputError as error:
                fine = "\n" not in str(error) and str(hit) in str(error)
                tally.add(told, None if fine else f"refused with {error!r}")
            except Exception as error:
                tally.add(told, f"{type(error).__name__}: {error}")
            else:
                tally.add(told, "opened")
        tallies.append(tally)
    return tallies
