"""A few trials of each promise; ``python -m tests.faults`` runs them all."""

import pytest

from faults import flips, forgeries, kills, removals, spellings
from faults.scene import Scene

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    return Scene(tmp_path_factory.mktemp("faults") / "scene").make()


def held(*tallies):
    for tally in tallies:
        assert tally.trials > 0
        assert tally.failures == []


@pytest.mark.parametrize("name", ["add", "fit"])
def test_kills(scene, name):
    held(*kills.kills(scene, name, 2))


def test_two_writers(scene):
    held(kills.two_writers(scene, ["add"], 1))


def test_flipped_bits(scene):
    held(flips.inputs(scene, "DATA", 2), flips.inputs(scene, "MODEL", 2))
    held(flips.trainings(scene, 1))
    held(flips.exports(scene, 2))


def test_spelled_ids_and_forgotten_values(scene):
    held(*spellings.spellings(scene.folder, 60), *spellings.forgetting(scene.folder, 7))


def test_files_of_others(scene):
    held(*removals.removals(scene, 4))


def test_forged_folders(scene):
    held(*forgeries.forged(scene, 3))


def test_hostile_tables(scene):
    held(forgeries.hostile(scene, ["column 'a\\nb'", "a bomb", "an empty SIMULATED"]))


def test_interruptions(scene):
    held(forgeries.stopped(scene, 2))
