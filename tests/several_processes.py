"""One of several processes of a job over loopback, each with one CPU split into two devices.

`python tests/several_processes.py PORT PROCESS COUNT FOLDER WHAT` prints the results that
`training/test_processes.py` checks, as JSON; WHAT is "steps" or "methods".
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import eight_devices as one
import jax
import numpy as np
from toy import dataset

from metaheac_jax import processes
from metaheac_jax.audience import retrieve
from metaheac_jax.data import dataset as dataset_module
from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.methods import method_named
from metaheac_jax.model import Customised, General
from metaheac_jax.processes import from_each, is_first, join_job
from metaheac_jax.settings import PAPER
from metaheac_jax.training import sharding
from metaheac_jax.training.checkpoint import Checkpoints
from metaheac_jax.training.loop import train
from metaheac_jax.training.mesh_checkpoints import MeshCheckpoints
from metaheac_jax.training.sharding import device_mesh


def training(folder):
    """The difference to one device of a training that saves after 20 steps and resumes from there.

    Also the first step drawn each time, and the campaigns of a step that this process reads.
    """
    mesh = (2, jax.process_count())
    place, step, state = one.placement(mesh), one.on_mesh(mesh), None
    own = place.own_campaigns()
    draw = CampaignSampler(
        one.DATA, np.arange(8), seed=0, campaigns_per_step=one.CAMPAIGNS, batch_size=16, part=own
    )
    first = []
    for steps in (20, one.STEPS):
        drawn, draw_noted = one.noted(draw)
        path = folder / "checkpoints"
        with Checkpoints.at(path if is_first() else None) as checkpoints:
            state, _ = train(
                step,
                step.init(*jax.tree.map(np.copy, one.weights())),
                draw_noted,
                num_steps=steps,
                checkpoints=MeshCheckpoints(checkpoints, path, place),
            )
        first.append(min(drawn))
    state = place.fetch(state)
    expected = one.trained(one.one_device())[0] if is_first() else state
    return {
        "difference": one.difference(state, expected),
        "first": first,
        "reads": list(own),
        "read": len(draw(0).own_rows),
    }


class Reads:
    """Rows of users; records which of them are read."""

    def __init__(self, rows):
        self.rows, self.shape, self.dtype, self.read = rows, rows.shape, rows.dtype, set()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, users):
        self.read |= set(range(len(self))[users])
        return self.rows[users]


def expanding():
    """Checks that all processes get the audiences of one; returns how many users this one read."""
    retrieve._BLOCK, dataset_module._BLOCK = 16, 16
    data = replace(one.DATA, user_ids=np.random.default_rng(8).permutation(one.DATA.user_ids))
    general = General(
        "toy", PAPER, data.schema, data.vocabulary, state={}, data="toy", campaigns=(), seed=0
    )
    seeds = data.user_ids[[3, 50, 96]]
    campaign = data.new_campaign(seeds, {"advertiser": 1, "category": 0})
    models = [
        Customised(general, campaign, seeds, lambda rows, by=by: (rows.sum(1) % by).astype(float))
        for by in (7, 100)  # the first has many ties
    ]
    options = {"size": 40, "exclude": data.user_ids[100:300]}
    reads = Reads(data.user_rows)
    ours = retrieve.expand_all(
        models,
        replace(data, user_rows=reads),
        mesh=device_mesh(campaign=jax.device_count()),
        **options,
    )
    for own, expected in zip(ours, retrieve.expand_all(models, data, **options), strict=True):
        np.testing.assert_array_equal(own.user_ids, expected.user_ids)
        np.testing.assert_array_equal(own.scores, expected.scores)
        assert own.num_candidates == expected.num_candidates
    return len(reads.read)


def methods():
    """Differences to one device of a method's training, judgements and customised models."""
    sizes = {"width": 4, "num_experts": 2, "num_critics": 2, "batch_size": 32}
    sizes |= {"campaigns_per_step": 4, "offline_epochs": 2, "offline_patience": 2}
    sizes |= {"online_epochs": 2, "online_patience": 1, "reduction": "mean"}
    data = dataset(per_campaign=60, users=200, pool=100)
    method = method_named("metaheac", replace(PAPER, **sizes))
    mesh = device_mesh(campaign=jax.process_count(), row=2)
    campaigns = [data.campaign(number) for number in range(5)]
    states, scores = [], []
    for options in ({"mesh": mesh}, {}):
        general = method.fit(data, **options)
        models = method.customise(general, data, campaigns, **options)
        states.append((dict(general.state), general.optimizer, general.judgements))
        scores.append([model.score(data.user_rows) for model in models])
    return {"state": one.difference(*states), "scores": one.difference(*scores)}


if __name__ == "__main__":
    port, process, count, folder, what = sys.argv[1:]
    join_job(f"127.0.0.1:{port}", int(process), int(count))
    processes._CHUNK, sharding._BLOCK = 1 << 12, 16  # several of each, as for a large table
    jax.config.update("jax_disable_most_optimizations", True)
    if count == "4":  # so that each process has campaigns
        one.CAMPAIGNS = 8
        one.draw = CampaignSampler(
            one.DATA, np.arange(8), seed=0, campaigns_per_step=8, batch_size=16
        )
    found = training(Path(folder)) | {"scored": expanding()} if what == "steps" else methods()
    everyones = from_each(found)
    if is_first():
        print(json.dumps(everyones))
