"""Simulated worlds: their cache, and references that know the truth."""

from dataclasses import replace

import numpy as np
from commands import contents
from writers import release

from experiments.sources.simulated import World, make_once, open_world, oracle, seeds_only_oracle
from experiments.sources.splits import paper_split
from metaheac_jax.audience.evaluating import judge_all
from metaheac_jax.data.simulation.shapes import TENCENT_WORLD


def stop(*_, **__):
    raise KeyboardInterrupt


def test_what_another_process_writes_is_waited_for(tmp_path, writers):
    told = []
    with writers.of(tmp_path / "out") as process:

        def tell(*call):
            told.append(call)
            release(process)

        make_once(tmp_path / "out", (tmp_path / "out").mkdir, progress=tell)
    assert "another process" in told[0][0]
    make_once(tmp_path / "out", stop, progress=stop)
    assert contents(tmp_path) == {"out"}


def test_an_oracle_that_has_to_learn_tastes_is_between_chance_and_the_oracle(tmp_path):
    shape = replace(
        TENCENT_WORLD,
        campaigns=40,
        advertisers=20,
        campaign_ids=30,
        sizes=5,
        categories=8,
        products=12,
        product_types=3,
    )
    world = World(users=20_000, examples=15_000, min_pool_examples=150, shape=shape)
    data = open_world(world, tmp_path)
    split, given = paper_split(data, 0), (world, tmp_path, data)
    learned = seeds_only_oracle(*given, split)
    means = []
    for scores in (learned, oracle(*given)):
        judged = judge_all(data, split, [scores[data.stage2.of(c)] for c in split.test])
        means.append(np.mean([own["auc"] for own in judged["campaigns"]]))
    assert 0.6 < means[0] < means[1] - 0.01
    assert not learned[data.stage2.of(split.train[0])].any()
