"""A few trials of each promise; ``python -m tests.faults`` runs them all."""

import os

import pytest

from faults import damages, disks, formats, kills, options, soak
from faults.scene import open_scene, tiny_world
from metaheac_jax.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def scene(folder):
    with tiny_world(folder / "compiled"):
        yield open_scene(folder / "scene")


def held(tally):
    assert tally.trials > 0
    assert tally.failures == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["saving checkpoints", "saving data"])
def test_kills(folder, kind):
    held(kills.kill_saving(folder, kind, 2))


def test_damaged_checkpoints(folder):
    held(damages.checkpoints(folder, 6))


def test_damaged_folders(scene, folder):
    for tally in damages.folders(scene, folder, 10):
        held(tally)


@pytest.mark.parametrize("name", formats.FORMATS)
def test_mutated_files(folder, name):
    [tally] = formats.run(folder, [name], 40)
    held(tally)


def test_a_reader_that_is_wrong_is_found(folder):
    """A fault of the harness would be that nothing is."""
    file, content, read, slow = formats.FORMATS["examples"]

    def wrong(path):
        return [(campaign, user, 0) for campaign, user, _ in read(path)]

    def deaf(path):
        try:
            return read(path)
        except InputError:
            return []

    assert "read as" in formats.try_file(folder / file, content, wrong, slow)
    assert "read, unlike" in formats.try_file(folder / file, content + b"x", deaf, slow)


def test_options(scene, folder):
    held(options.run(scene, folder, 8))


@pytest.mark.parametrize("name", ["prepare", "overlap"])
@pytest.mark.parametrize("most", [0, 100])
def test_files_that_may_not_grow(scene, tmp_path, name, most):
    """As on a full disk, without the right to mount one."""
    (tmp_path / "whole").mkdir()
    scene.must(name, tmp_path / "whole" / "out")
    expected = disks.fingerprint(tmp_path / "whole" / "out")
    assert disks.try_task(scene, name, "small files", most, tmp_path, expected) is None


def test_a_full_disk(scene, folder):
    if os.geteuid() or not disks.can_mount(folder):
        pytest.skip("needs the right to mount file systems")
    held(disks.sweep(scene, folder, ["prepare", "overlap"], (0, 0.5)))


@pytest.mark.long
def test_soak(folder):
    with tiny_world(folder / "compiled"):
        for tally in soak.run(folder / "soak", 1.0):
            held(tally)
