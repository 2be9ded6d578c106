"""Cosine similarity to the mean seed, against a loop over users and rows."""

import numpy as np
from toy import dataset

from experiments.baselines.similarity import Cosine, indicators
from metaheac_jax.methods import customise, fit

DATA = dataset(campaigns=12, per_campaign=400)
TRAIN, NEW = np.arange(8), np.arange(8, 12)


def models(data=DATA):
    general = fit(data, Cosine(), campaigns=TRAIN)
    return [model.score for model in customise(general, data, [data.campaign(c) for c in NEW])]


def test_indicators_are_rows_that_a_user_has():
    users = np.array([[0, 3, 3, 5], [5, 5, 5, 5]])  # 5 is the pad id
    np.testing.assert_array_equal(
        indicators(users, 5).toarray(), [[1, 0, 0, 1, 0], [0, 0, 0, 0, 0]]
    )


def test_cosine_equals_a_naive_loop():
    rows, stage = DATA.num_rows, DATA.stage1
    known = {int(u) for c in TRAIN for u in stage.user[stage.of(c)]}
    idf = np.zeros(rows)
    for r in range(rows):
        having = sum(r in DATA.user_rows[u] for u in known)
        idf[r] = np.log((1 + len(known)) / (1 + having)) + 1

    def vector(user_rows):
        v = np.zeros(rows)
        for r in user_rows:
            if r < rows:
                v[r] = idf[r]
        return v / np.linalg.norm(v)

    for c, model in zip(NEW[:2], models(), strict=False):
        of = stage.of(c)
        seeds = [u for u, y in zip(stage.user[of], stage.label[of], strict=True) if y]
        mean = np.mean([vector(DATA.user_rows[u]) for u in seeds], axis=0)
        naive = [vector(r) @ mean / np.linalg.norm(mean) for r in DATA.user_rows[:40]]
        np.testing.assert_allclose(model(DATA.user_rows[:40]), naive, rtol=1e-5)
