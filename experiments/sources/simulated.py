"""Simulated worlds, made once and kept in a cache folder.

No other module of the experiments knows the files of a world.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from metaheac_jax.data import preparing
from metaheac_jax.data.campaign import Examples as Stage
from metaheac_jax.data.dataset import Dataset, Split
from metaheac_jax.data.simulation.shapes import TENCENT_WORLD, Shape
from metaheac_jax.data.simulation.truth import FORMAT as WORLD_FORMAT
from metaheac_jax.data.simulation.truth import linear_and_pairwise, read_truth, true_probability
from metaheac_jax.data.simulation.world import write_world
from metaheac_jax.data.storage import FORMAT, open_dataset
from metaheac_jax.errors import Busy
from metaheac_jax.files import locked
from metaheac_jax.methods.learned_prior import Prior
from metaheac_jax.progress import Progress, silent
from metaheac_jax.schema import TENCENT, Field, Schema, Vocabulary
from metaheac_jax.solvers.posterior import Examples, learn_prior, posterior_mode


@dataclass(frozen=True, kw_only=True)
class World:
    """What a world is made of.

    Attributes:
      users, examples, min_pool_examples, cardinality, seed, shape: as in
        `metaheac_jax.data.simulation.world.write_world`.
    """

    users: int
    examples: int | None = None
    min_pool_examples: int = 1500
    cardinality: float = 0.1
    seed: int = 0
    shape: Shape = TENCENT_WORLD

    def folder(self, cache_dir: Path) -> Path:
        """Where the cache has its files, if it has them."""
        digest = hashlib.sha256(f"{WORLD_FORMAT} {self!r}".encode()).hexdigest()[:8]
        name = self.shape.name.replace(" ", "-")
        name = f"simulated-{name}-{self.users}-users-seed-{self.seed}-{digest}"
        return cache_dir / name

    def write(self, folder: Path, *, progress: Progress = silent) -> None:
        """Simulates it.

        Raises:
          InputError: a number is out of range, or there are too few users.
        """
        write_world(folder, **vars(self), progress=progress)


def make_once(target: Path, make: Callable[[], object], *, progress: Progress) -> None:
    """Makes a file or folder of a cache if it is missing, or waits while another process makes it.

    Args:
      target: the file or folder.
      make: writes it.
      progress: called while another process makes it.
    """
    while not target.exists():
        try:
            with locked(target):
                if not target.exists():
                    make()
        except Busy:
            progress(f"wait for another process, which is writing {target.name}", 0, 1)
            time.sleep(0.5)


def prepare(
    folder: Path, target: Path, *, schema: Schema = TENCENT, progress: Progress = silent
) -> Dataset:
    """Turns tables with the columns of a schema into a dataset on disk."""
    return preparing.prepare(folder, target, schema=schema, progress=progress)


def open_world(
    world: World, cache_dir: Path, *, schema: Schema = TENCENT, progress: Progress = silent
) -> Dataset:
    """The dataset of a world, which is simulated and prepared unless the cache has it."""
    folder = world.folder(cache_dir)
    make_once(folder, partial(world.write, folder, progress=progress), progress=progress)
    text = json.dumps([FORMAT, schema.to_json()])
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    target = folder.with_name(f"prepared-{folder.name}-{digest}")
    make = partial(prepare, folder, target, schema=schema, progress=progress)
    make_once(target, make, progress=progress)
    return open_dataset(target, progress=progress)


def with_vector(world: World, cache_dir: Path, dataset: Dataset) -> Dataset:
    """The dataset of `open_world` with a vector of users: every second of their true traits."""
    truth, _ = read_truth(world.folder(cache_dir))
    traits = truth.traits[np.searchsorted(truth.user_ids, dataset.user_ids), ::2]
    numbers = ((traits - traits.mean(axis=0)) / traits.std(axis=0)).astype(np.float32)
    count = numbers.shape[1]
    rows = np.arange(count, count + dataset.num_rows + 1, dtype=np.int32)
    return replace(
        dataset,
        schema=replace(dataset.schema, user=(Field("traits", vector=count), *dataset.schema.user)),
        vocabulary=Vocabulary((np.arange(count), *dataset.vocabulary.values)),
        user_rows=replace(dataset.user_rows.mapped(rows), numbers=numbers),
        campaign_rows=rows[dataset.campaign_rows],
    )


def oracle(world: World, cache_dir: Path, dataset: Dataset) -> np.ndarray:
    """(E,) float32 true probabilities of the examples in stage 2 of `open_world`."""
    stage = dataset.stage2
    ids = dataset.campaign_ids[stage.campaign], dataset.user_ids[stage.user]
    return true_probability(world.folder(cache_dir), *ids).astype(np.float32)


def seeds_only_oracle(world: World, cache_dir: Path, dataset: Dataset, split: Split) -> np.ndarray:
    """(E,) scores of stage 2 by the true terms of users, whose weights are not known.

    A test campaign's weights are learned from its stage 1, under a prior from the training
    campaigns, as in `metaheac_jax.methods.learned_prior`. Training campaigns have 0.
    """
    truth, _ = read_truth(world.folder(cache_dir))

    def examples(stage: Stage, c: int) -> Examples:
        of = stage.of(c)
        users = np.searchsorted(truth.user_ids, dataset.user_ids[stage.user[of]])
        terms = linear_and_pairwise(truth.traits[users], truth.pairs)
        return Examples(terms.astype(np.float32), stage.label[of])

    groups = np.repeat([0, 1], [truth.traits.shape[1], truth.pairs.shape[2]])
    campaigns = [examples(dataset.stage1, c) for c in split.train.tolist()]
    first = np.full(len(groups), 0.02)  # variances, of pairs too
    learned = learn_prior(campaigns, groups, first, strength=len(groups), passes=5)
    rows = dataset.campaign_rows[split.train]
    prior = Prior.learned(learned, campaigns, rows, dataset.num_rows)
    scores = np.zeros(len(dataset.stage2.user), np.float32)
    for c in split.test.tolist():
        own = prior.of(dataset.campaign_rows[c], dataset.num_rows)
        mode = posterior_mode(examples(dataset.stage1, c), own)
        scores[dataset.stage2.of(c)] = examples(dataset.stage2, c).features @ mode[:-1]
    return scores
