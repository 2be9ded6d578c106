"""A general model on disk: the same scores after loading, and every damage is named."""

import json
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import contents
from toy import dataset

from metaheac_jax.backend import processor
from metaheac_jax.errors import InputError
from metaheac_jax.model import MANIFEST, General, Judgement, load, save
from metaheac_jax.schema import Vocabulary
from metaheac_jax.sealed import write_manifest

DATA = dataset(users=120, campaigns=6, per_campaign=60, pool=40)


def same_model(one, two):
    arrays = {"state", "vocabulary", "optimizer"}
    for name in {field.name for field in fields(General)} - arrays - {"digest"}:
        assert getattr(one, name) == getattr(two, name)
    for a, b in zip(one.vocabulary.values, two.vocabulary.values, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert jax.tree.structure(one.state) == jax.tree.structure(two.state)
    for a, b in zip(jax.tree.leaves(one.state), jax.tree.leaves(two.state), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


def general_of(state, **changed):
    general = General(
        method="toy",
        config={"width": 3, "head": {"penalty": 0.5}},
        schema=DATA.schema,
        vocabulary=DATA.vocabulary,
        state=state,
        data="toy",
        campaigns=(100, 110, "tea"),
        seed=7,
        judgements=(Judgement(4, 0.625, 0.5), Judgement(8, 0.75, 0.375)),
        held_out=(120, 130),
    )
    return replace(general, **changed)


def small():
    """A model with an array in a dict in a dict, and one of bytes."""
    kernel = jnp.arange(6.0).reshape(2, 3)
    return general_of({"network": {"params": {"kernel": kernel}}, "text": np.arange(5, dtype="u1")})


def test_loading_needs_nothing_but_the_folder(tmp_path):
    values = (*DATA.vocabulary.values[:-1], np.array(["ad", "game", "näher"]))
    general = replace(small(), vocabulary=Vocabulary(values))
    save(general, tmp_path / "deep" / "model")
    loaded = load(str(tmp_path / "deep" / "model"))
    same_model(loaded, general)
    folder = tmp_path / "deep" / "model"
    written = json.loads((folder / MANIFEST).read_text())
    assert set(written["versions"]) == {"metaheac_jax", "jax"}
    assert written["processor"] == processor()
    assert written["digest"] == loaded.digest
    files = (path for path in folder.rglob("*") if path.is_file())
    assert {str(path.relative_to(folder)) for path in files} == set(FILES)
    assert contents(tmp_path / "deep") == {"model"}
    save(general_of({}), tmp_path / "empty")
    assert load(tmp_path / "empty").state == {}


FILES = (
    "model.json",
    "state/network/params/kernel.npy",
    "state/text.npy",
    *(f"values/{field.name}.npy" for field in DATA.schema.fields),
)


@pytest.mark.parametrize("end", [None, 1.5, "x"])
def test_the_end_may_be_absent(tmp_path, end):
    """A model of an older version has none."""
    save(replace(small(), end=7), tmp_path / "model")
    path = tmp_path / "model" / MANIFEST
    body = json.loads(path.read_text())
    assert load(path.parent).end == body.pop("end") == 7
    body |= {} if end is None else {"end": end}
    del body["digest"]
    write_manifest(path, body)
    if end is None:
        assert load(path.parent).end is None
        return
    with pytest.raises(InputError, match=rf"^{path}: end is {end!r}"):
        load(path.parent)


def refused(folder, name):
    with pytest.raises(InputError) as caught:
        load(folder)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert "`save` or `metaheac fit`" in message


def test_a_folder_without_a_model_is_refused_and_not_overwritten(tmp_path):
    refused(tmp_path / "nowhere", "nowhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("ten years")
    refused(tmp_path / "mine", "mine")
    with pytest.raises(InputError, match=r"thesis\.tex: is listed in no intact model\.json"):
        save(small(), tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.tex"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_or_cut_is_named(tmp_path, name):
    save(small(), tmp_path / "model")
    path = tmp_path / "model" / name
    content = path.read_bytes()
    for cut in (b"", content[:20], content[:-3]):
        path.write_bytes(cut)
        refused(tmp_path / "model", name)
    path.unlink()
    refused(tmp_path / "model", name)
    path.write_bytes(content)
    load(tmp_path / "model")


def test_a_model_replaces_an_older_one_whole(tmp_path):
    save(general_of({"old": np.ones(3)}, seed=1), tmp_path / "model")
    save(small(), tmp_path / "model")
    same_model(load(tmp_path / "model"), small())
    assert contents(tmp_path / "model" / "state") == {"network", "text.npy"}
    assert contents(tmp_path) == {"model"}


# The optimiser's state --------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path):
    """A model with its optimiser's state, saved."""
    table = {"mu": np.ones((2, 3)), "nu": np.zeros((2, 3))}
    state = {"network": {"0": {"count": np.int32(3)}}, "table": table, "count": np.int32(3)}
    general = replace(small(), optimizer=state)
    save(general, tmp_path / "model")
    return general, tmp_path / "model"


def test_the_optimizer_is_read_only_when_it_is_asked_for(trained):
    general, folder = trained
    assert load(folder).optimizer is None
    found = load(folder, optimizer=True).optimizer
    assert jax.tree.structure(found) == jax.tree.structure(general.optimizer)
    jax.tree.map(np.testing.assert_array_equal, found, general.optimizer)
    path = folder / "optimizer" / "table" / "mu.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    same_model(load(folder), general)  # expanding does not depend on it
    with pytest.raises(InputError, match=r"mu\.npy: altered since it was written"):
        load(folder, optimizer=True)
