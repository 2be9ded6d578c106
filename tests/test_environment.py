"""A configuration is compared with the recorded one; a difference or a damage is named."""

from importlib.metadata import version

import jaxlib
import numpy as np
import pytest

from metaheac_jax.environment import environment, keep_config
from metaheac_jax.errors import InputError

CONFIG = {"seed": 0, "data": {"name": "toy", "sha256": "aa"}, "jax": "0.10.1", "sizes": (1, 2)}


def keep(path, config):
    keep_config(path, config, restart="start afresh")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 1}, "another seed (0, now 1)"),
        ({"sizes": (2, 1)}, "another sizes;"),
        ({"jax": "0.11.1"}, "another jax (0.10.1, now 0.11.1)"),
        ({"data": {"name": "toy", "sha256": "bb"}, "flax": "1"}, "data, flax (None, now 1)"),
    ],
)
def test_what_changed_is_named(tmp_path, changes, told):
    path = tmp_path / "deep" / "config.json"
    keep(path, CONFIG)
    before = path.read_bytes()
    for first, second in ((CONFIG, CONFIG | changes), (CONFIG | changes, CONFIG)):
        keep(path, first)
        with pytest.raises(InputError, match="use the same, or start afresh") as caught:
            keep(path, second)
        assert str(path) in str(caught.value)
        assert first != CONFIG or told in str(caught.value)
        path.unlink()
    keep(path, CONFIG)
    assert path.read_bytes() == before


def test_no_damaged_bit_lets_another_configuration_pass(tmp_path):
    path = tmp_path / "config.json"
    keep(path, CONFIG)
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << np.random.default_rng(place).integers(8)
        path.write_bytes(damaged)
        try:
            keep(path, CONFIG)
        except InputError as error:
            assert "start afresh" in str(error)  # noqa: PT017
        else:
            assert damaged.split() == content.split()
    for text in ("", "[1]", "3", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(InputError, match=r"config\.json: .*; start afresh"):
            keep(path, CONFIG)


def test_the_environment_has_versions():
    found = environment()
    assert found["jaxlib"] == jaxlib.version.__version__
    assert found["metaheac-jax"] == version("metaheac-jax")
