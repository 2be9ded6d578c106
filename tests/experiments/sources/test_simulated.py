"""Simulated worlds: their cache, and references that know the truth."""

from dataclasses import replace

import numpy as np
from commands import contents
from writers import release

from experiments.sources.simulated import (
    World,
    make_once,
    open_world,
    oracle,
    seeds_only_oracle,
    with_vector,
)
from experiments.sources.splits import paper_split
from metaheac_jax.audience.evaluating import judge_all
from metaheac_jax.data.simulation.shapes import TENCENT_WORLD
from metaheac_jax.data.simulation.truth import read_truth

#: A world with few campaigns.
SHAPE = replace(
    TENCENT_WORLD,
    campaigns=40,
    advertisers=20,
    campaign_ids=30,
    sizes=5,
    categories=8,
    products=12,
    product_types=3,
)
SMALL = World(users=20_000, examples=15_000, min_pool_examples=150, shape=SHAPE)


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
    world = SMALL
    data = open_world(world, tmp_path)
    split, given = paper_split(data, 0), (world, tmp_path, data)
    learned = seeds_only_oracle(*given, split)
    means = []
    for scores in (learned, oracle(*given)):
        judged = judge_all(data, split, [scores[data.stage2.of(c)] for c in split.test])
        means.append(np.mean([own["auc"] for own in judged["campaigns"]]))
    assert 0.6 < means[0] < means[1] - 0.01
    assert not learned[data.stage2.of(split.train[0])].any()


def test_a_vector_has_every_second_true_trait_of_each_user(tmp_path):
    world = SMALL
    plain = open_world(world, tmp_path)
    data = with_vector(world, tmp_path, plain)
    truth, _ = read_truth(world.folder(tmp_path))
    users = np.array([5, 7_000])
    numbers = data.layout.numbers(data.user_rows[users])
    traits = truth.traits[np.searchsorted(truth.user_ids, data.user_ids[users]), ::2]
    np.testing.assert_allclose(
        numbers[0] - numbers[1],
        (traits[0] - traits[1]) / truth.traits[:, ::2].std(axis=0),
        rtol=1e-4,
    )
    count = numbers.shape[1]
    np.testing.assert_array_equal(data.user_rows[users][:, count:], plain.user_rows[users] + count)
