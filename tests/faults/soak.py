"""Long runs: 20,000 meta-steps, 500 customised campaigns, 20 million users, three processes.

Neither memory nor the time of a step may grow, and processes must share a data set without harm.
"""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import toy

from faults.kills import run_task, start
from faults.scene import Scene, Tally, fingerprint, open_scene
from metaheac_jax.audience.retrieve import expand
from metaheac_jax.data.dataset import UserRows
from metaheac_jax.data.storage import open_dataset, write_dataset
from metaheac_jax.files import new_array
from metaheac_jax.methods import metaheac
from metaheac_jax.settings import PAPER

PROMISE = "{}: neither memory nor the time of a step grows"
SHARED = "two trainings and an expansion share a data set: the results of each alone"
POOL = "an audience of {:,} users takes less than {} MiB more than one of a tenth"
TINY = replace(
    PAPER, width=4, num_experts=2, num_critics=2, batch_size=16, campaigns_per_step=2,
    offline_patience=None, online_patience=None, online_epochs=1,
)  # fmt: skip
MOST_GROWTH = 0.05  # of memory, from the second quarter to the last
MOST_SLOWING = 1.25  # ratio of the processor time of a step, likewise
MOST_MORE = 128  # MiB


def memory():
    """Resident bytes of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError("no RssAnon")


class Watch:
    """A progress callback that notes memory and processor time."""

    def __init__(self, name):
        self.name, self.notes = name, []

    def __call__(self, what, done, total):
        if self.name in what:
            self.notes.append((done, memory(), time.process_time()))

    def judge(self, what):
        """Compares the last quarter of the notes with the second, and prints the figures."""
        notes = np.array(self.notes, float)
        quarters = np.array_split(notes, 4)
        sizes = [quarter[:, 1].mean() for quarter in quarters]
        costs = [(q[-1, 2] - q[0, 2]) / max(1, q[-1, 0] - q[0, 0]) for q in quarters]
        growth, slowing = sizes[3] / sizes[1] - 1, costs[3] / costs[1]
        print(
            f"{what}: {sizes[1] / 2**20:.0f} MiB in the second quarter, {growth:+.2%} in the last; "
            f"{1e3 * costs[1]:.2f} ms each, {slowing - 1:+.1%} in the last",
            flush=True,
        )
        tally = Tally(PROMISE.format(what))
        fine = growth < MOST_GROWTH and slowing < MOST_SLOWING
        tally.add(what, None if fine else f"memory {growth:+.1%}, time {slowing - 1:+.1%}")
        return tally


def steps(folder, count):
    """Takes ``count`` meta-steps, with checkpoints."""
    data = toy.dataset(users=300, campaigns=6, per_campaign=64, pool=10)
    epochs = -(-count * TINY.batch_size // (6 * 64))
    watch = Watch("MetaHeac")
    method = metaheac(replace(TINY, offline_epochs=epochs))
    method.fit(data, directory=folder / "soak", log=folder / "soak.jsonl", progress=watch)
    return watch.judge(f"{count:,} meta-steps")


def campaigns(count):
    """Customises ``count`` campaigns in one call."""
    data = toy.dataset(users=300, campaigns=6, per_campaign=64, pool=10)
    method = metaheac(replace(TINY, offline_epochs=1))
    general, rng = method.fit(data), np.random.default_rng(0)
    some = [
        data.new_campaign(
            rng.choice(data.user_ids, 40, replace=False).tolist(),
            {"advertiser": 1, "category": 1},
            seed=seed,
        )
        for seed in range(count)
    ]
    watch = Watch("customise")
    method.customise(general, data, some, progress=watch)
    return watch.judge(f"{count:,} customised campaigns")


def shared(folder):
    """Runs two trainings and an expansion at the same time."""
    scene, tally = open_scene(folder / "scene"), Tally(SHARED)
    folder = folder / "shared"
    shutil.rmtree(folder, ignore_errors=True)
    tasks = {"one": "fit", "two": "fit", "three": "expand --campaigns"}
    expected = {}
    for name, task in tasks.items():
        (folder / f"{name}-alone").mkdir(parents=True)
        Scene(scene.folder).must(task, folder / f"{name}-alone" / "out")
        expected[name] = fingerprint(folder / f"{name}-alone" / "out")
        (folder / name).mkdir()
    children = {
        name: start(
            run_task, str(scene.folder), task, str(folder / name / "out"), False,
            str(folder / f"{name}.error"),
        )
        for name, task in tasks.items()
    }  # fmt: skip
    for name, child in children.items():
        child.join()
        told = (folder / f"{name}.error").read_text()
        same = child.exitcode == 0 and fingerprint(folder / name / "out") == expected[name]
        tally.add(name, None if same else f"exit {child.exitcode}: {told[-300:]}")
    return tally


def pool(folder, users):
    """Retrieves audiences from pools on disk: a large one, and one of a tenth of its size."""
    data = toy.dataset(users=3000, campaigns=4, per_campaign=200, pool=10)
    method = metaheac(replace(TINY, offline_epochs=1, batch_size=64))
    general = method.fit(data)
    campaign = data.new_campaign(data.user_ids[:60].tolist(), {"advertiser": 1, "category": 1})
    [model] = method.customise(general, data, [campaign])
    most = {}
    for count in (users // 10, users):
        large = open_dataset(_large(data, folder / f"pool-{count}", count), verify=False)
        watch, began = Watch("score the pool"), time.perf_counter()
        before = memory()
        audience = expand(model, large, size=10_000, progress=watch)
        assert len(audience) == 10_000
        most[count] = max(size for _, size, _ in watch.notes) - before
        seconds = time.perf_counter() - began
        print(
            f"{count:,} users: {seconds:.0f} s, {most[count] / 2**20:.0f} MiB more at most",
            flush=True,
        )
        shutil.rmtree(folder / f"pool-{count}")
    tally = Tally(POOL.format(users, MOST_MORE))
    more = (most[users] - most[users // 10]) / 2**20
    tally.add(users, None if more < MOST_MORE else f"{more:.0f} MiB more")
    return tally


def _large(data, folder, count):
    """The data set with ``count`` users, who repeat its own users."""
    scratch = folder.with_name("columns")
    scratch.mkdir(exist_ok=True)
    rows = new_array(scratch / "rows.npy", np.int32, (count, data.user_rows.shape[1]))
    keys = new_array(scratch / "keys.npy", np.int64, (count,))
    users: UserRows = data.user_rows
    for first in range(0, count, 1 << 18):
        last = min(count, first + (1 << 18))
        rows[first:last] = users[np.arange(first, last) % len(users)]
        keys[first:last] = np.arange(first, last) * 7 + 3
    write_dataset(replace(data, user_rows=rows, user_ids=keys), folder)
    shutil.rmtree(scratch)
    return folder


def run(folder, fraction):
    """Runs all trials, at a fraction of their full size."""
    return [
        steps(folder, round(20_000 * fraction)),
        campaigns(round(500 * fraction)),
        shared(folder),
        pool(folder, round(20_000_000 * fraction)),
    ]
