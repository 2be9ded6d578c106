"""One of several processes of a job over loopback, each with one CPU split into two devices.

`python tests/several_processes.py PORT PROCESS COUNT FOLDER WHAT` prints the results that
`training/test_processes.py` checks, as JSON; WHAT is "steps" or "methods".
"""

import json
import sys
from pathlib import Path

import eight_devices as one
import jax
import numpy as np
from toy import dataset

from metaheac_jax.methods import configured, fit
from metaheac_jax.processes import from_each, is_first, join_job
from metaheac_jax.training import sharding
from metaheac_jax.training.checkpoint import Checkpoints
from metaheac_jax.training.loop import Training, train
from metaheac_jax.training.sharding import device_mesh


def training(folder):
    """The difference to one device of a training that saves after 20 steps and resumes from there.

    Also the first step drawn each time.
    """
    mesh = (2, jax.process_count())
    place, step, state = one.placement(mesh), one.on_mesh(mesh), None
    first = []
    for steps in (20, one.STEPS):
        drawn, draw_noted = one.noted(one.draw)
        path = folder / "checkpoints"
        checkpoints = Checkpoints(path)
        start = step.init(*jax.tree.map(np.copy, one.weights()))
        training = Training(step, start, draw_noted, num_steps=steps)
        state, _ = train(training, checkpoints=checkpoints)
        first.append(min(drawn))
    state = place.fetch(state)
    expected = one.trained(one.one_device())[0] if is_first() else state
    return {"difference": one.difference(state, expected), "first": first}


def methods():
    """Differences to one device of a method's training and judgements."""
    sizes = {"width": 4, "num_experts": 2, "num_critics": 2, "batch_size": 32}
    sizes |= {"campaigns_per_step": 4, "offline_epochs": 2, "offline_patience": 2}
    sizes |= {"online_epochs": 2, "online_patience": 1, "reduction": "mean"}
    data = dataset(per_campaign=60, users=200, pool=100)
    method = configured("metaheac", **sizes)
    mesh = device_mesh(campaign=jax.process_count(), row=2)
    states = []
    for options in ({"mesh": mesh}, {}):
        general = fit(data, method, **options)
        states.append((dict(general.state), general.optimizer, general.judgements))
    return one.difference(*states)


if __name__ == "__main__":
    port, process, count, folder, what = sys.argv[1:]
    join_job(f"127.0.0.1:{port}", int(process), int(count))
    sharding._BLOCK = 16  # several, as for a large table
    jax.config.update("jax_disable_most_optimizations", True)
    found = training(Path(folder)) if what == "steps" else methods()
    everyones = from_each(found)
    if is_first():
        print(json.dumps(everyones))
