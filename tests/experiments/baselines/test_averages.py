"""Two solved heads and LR."""

import jax
import numpy as np
from toy import dataset

from experiments.baselines.averages import SecondHead, TwoHeads
from metaheac_jax.methods import Offline, SolvedHeadMethod

DATA = dataset(campaigns=8)
SMALL = {"width": 4, "batch_size": 32, "campaigns_per_step": 4, "offline_epochs": 0}


def test_the_second_head_starts_elsewhere_and_both_are_members():
    stage = Offline(DATA, np.arange(8), seed=3)
    head, second = (
        kind().changed(**SMALL).fit(stage).state for kind in (SolvedHeadMethod, SecondHead)
    )
    other = SolvedHeadMethod().changed(**SMALL).fit(Offline(DATA, np.arange(8), seed=1003)).state
    assert not np.array_equal(head["table"], second["table"])
    jax.tree.map(np.testing.assert_array_equal, second, other)
    method = TwoHeads().changed(**{f"head.{name}": value for name, value in SMALL.items()})
    assert [own.name for own in method.members] == ["solved-head", "second-head", "lr"]
    assert method.members[1].config == method.members[0].config
