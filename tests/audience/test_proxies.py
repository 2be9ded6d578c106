"""Fields that give a sensitive one away: known by construction, and nothing where nothing is."""

from dataclasses import replace

import numpy as np
import pytest
from toy import dataset

from metaheac_jax.audience.proxies import find_proxies
from metaheac_jax.data.dataset import SensitiveField

DATA = dataset(users=4000, campaigns=2)
EVERY = np.ones(4000, bool)
NAMES = [field.name for field in DATA.schema.user]
RNG = np.random.default_rng(0)
COPY = (np.asarray(DATA.user_rows[:])[:, 1] % 2).astype(np.int32)  # of the second field


def sensitive(codes, values=("no", "yes")):
    return replace(DATA, sensitive={"health": SensitiveField(np.array(values), codes[:, None])})


def test_a_copy_of_a_field_is_told_by_it():
    [found] = find_proxies(sensitive(COPY), EVERY)
    assert (found.field, found.by) == ("health", NAMES[1])
    assert found.auc > 0.99
    assert found.by_auc > 0.99
    noisy = np.where(RNG.random(4000) < 0.5, COPY, RNG.integers(0, 2, 4000)).astype(np.int32)
    [found] = find_proxies(sensitive(noisy), EVERY)
    assert found.by == NAMES[1]
    assert found.auc == pytest.approx(0.75, abs=0.03)  # half of the users have it by chance


def test_a_random_field_is_not_told():
    [found] = find_proxies(sensitive(RNG.integers(0, 2, 4000).astype(np.int32)), EVERY)
    assert found.auc == pytest.approx(0.5, abs=0.04)
    assert found.by_auc == pytest.approx(0.5, abs=0.04)


def test_rare_values_are_left_out():
    rare = (np.arange(4000) < 60).astype(np.int32)
    assert find_proxies(sensitive(rare), EVERY) == []
    assert find_proxies(DATA, EVERY) == []
    assert find_proxies(sensitive(COPY), np.arange(4000) < 90) == []
