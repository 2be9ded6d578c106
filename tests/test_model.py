"""A general model on disk: the same scores after loading, and every damage is named."""

import json
import shutil
from dataclasses import fields, replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import contents, full_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import dataset, with_shares

from metaheac_jax import model as module
from metaheac_jax.errors import InputError
from metaheac_jax.methods import METHODS, method_named
from metaheac_jax.model import MANIFEST, AddedCampaign, General, Judged, load, save
from metaheac_jax.settings import PAPER

DATA = dataset(users=120, campaigns=6, per_campaign=60, pool=40)
#: The smallest networks, and no offline step: every array has its initial value.
TINY = replace(PAPER, width=2, num_experts=2, num_critics=2, batch_size=32, campaigns_per_step=2)
TINY = replace(TINY, offline_epochs=0, offline_patience=None)


@cache
def untrained(name):
    """A method, its general model without a step, and a campaign's model without a step."""
    # Some methods have settings of their own.
    # With 0 online epochs, regressions adapt nothing.
    online_epochs = int(name in ("lr", "lr-lengths", "solved-head"))
    method = method_named(name, TINY).with_settings(offline_epochs=0, online_epochs=online_epochs)
    general = with_shares(method.fit(DATA, campaigns=[0, 1, 2], seed=4))
    return method, general, customised(method, general)


def customised(method, general):
    [own] = method.customise(general, DATA, [DATA.campaign(5)], seed=3)
    return own


def same_model(one, two):
    arrays = {"state", "vocabulary", "optimizer"}
    for name in {field.name for field in fields(General)} - arrays - {"origin"}:
        assert getattr(one, name) == getattr(two, name)
    for a, b in zip(one.vocabulary.values, two.vocabulary.values, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    assert jax.tree.structure(one.state) == jax.tree.structure(two.state)
    for a, b in zip(jax.tree.leaves(one.state), jax.tree.leaves(two.state), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_scores_the_same_after_loading(tmp_path, name):
    method, general, own = untrained(name)
    save(general, tmp_path / "model")
    loaded = load(tmp_path / "model")
    same_model(loaded, general)
    again = customised(method, loaded)
    np.testing.assert_array_equal(again.score(DATA.user_rows), own.score(DATA.user_rows))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_customised_model_shows_its_adapted_weights_if_it_has_any(name):
    """Whatever is taken for them is what its scores depend on."""
    _, _, own = untrained(name)
    if name in ("pinterest", "hubble", "lightgbm", "cosine", "prior"):
        with pytest.raises(InputError, match=f"campaign 150: '{name}' adapts no network's weights"):
            own.adapted  # noqa: B018
        return
    spoilt = own.adapted._replace(network=jax.tree.map(jnp.ones_like, own.adapted.network))
    changed = replace(own, scorer=replace(own.scorer, adapted=spoilt))
    assert (changed.score(DATA.user_rows) != own.score(DATA.user_rows)).any()


def general_of(state, **changed):
    general = General(
        method="toy",
        settings=PAPER,
        schema=DATA.schema,
        vocabulary=DATA.vocabulary,
        state=state,
        data="toy",
        campaigns=(100, 110, "tea"),
        seed=7,
        judgements=(Judged(4, 0.625, 0.5), Judged(8, 0.75, 0.375)),
        held_out=(120, 130),
        added=(AddedCampaign("tea", "digest of its folder", {"advertiser": 4, "category": "x"}),),
        parent="digest of another model",
        data_digest="digest of the data",
    )
    return replace(general, **changed)


def small():
    """A model with an array in a dict in a dict, and one of bytes."""
    kernel = jnp.arange(6.0).reshape(2, 3)
    return general_of({"network": {"params": {"kernel": kernel}}, "text": np.arange(5, dtype="u1")})


def test_loading_needs_nothing_but_the_folder(tmp_path):
    general = small()
    known = save(general, tmp_path / "deep" / "model")
    loaded = load(str(tmp_path / "deep" / "model"))
    same_model(loaded, general)
    assert known.origin == loaded.origin
    assert known.origin.folder == tmp_path / "deep" / "model"
    written = json.loads((tmp_path / "deep" / "model" / MANIFEST).read_text())
    assert set(written["versions"]) == {"metaheac_jax", "jax"}
    assert contents(tmp_path / "deep") == {"model"}
    save(general_of({}), tmp_path / "empty")
    assert load(tmp_path / "empty").state == {}


def test_values_that_are_strings_are_kept(tmp_path):
    values = (*DATA.vocabulary.values[:-1], np.array(["ad", "game", "näher"]))
    general = small()
    general = replace(general, vocabulary=type(general.vocabulary)(values))
    save(general, tmp_path / "model")
    same_model(load(tmp_path / "model"), general)


FILES = (
    "model.json",
    "state/network/params/kernel.npy",
    "state/text.npy",
    *(f"values/{field.name}.npy" for field in DATA.schema.fields),
)


def refused(folder, name):
    with pytest.raises(InputError) as caught:
        load(folder)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert "`save` or `metaheac fit`" in message


def test_a_model_has_these_files(tmp_path):
    save(small(), tmp_path / "model")
    files = (path for path in (tmp_path / "model").rglob("*") if path.is_file())
    assert {str(path.relative_to(tmp_path / "model")) for path in files} == set(FILES)


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


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    save(small(), folder)
    return folder


@pytest.mark.parametrize("name", FILES[1:])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@settings(max_examples=10)
def test_a_flipped_bit_anywhere_is_noticed(saved, name, place, bit):
    path = saved / name
    content = path.read_bytes()
    spoilt = bytearray(content)
    spoilt[int(place * len(spoilt))] ^= 1 << bit
    path.write_bytes(spoilt)
    try:
        refused(saved, name)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"method": "toy"', '"method": "toi"'),
        ('"width": 16', '"width": 61'),
        ('"seed": 7', '"seed": 8'),
        ('"name": "city"', '"name": "town"'),
        ('model 2"', 'model 3"'),
        (" 110", " 111"),
    ],
)
def test_an_altered_manifest_is_refused(tmp_path, old, new):
    save(small(), tmp_path / "model")
    path = tmp_path / "model" / MANIFEST
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    refused(tmp_path / "model", MANIFEST)


def test_a_folder_without_a_model_is_named(tmp_path):
    refused(tmp_path, str(tmp_path))
    refused(tmp_path / "nowhere", "nowhere")


def test_a_folder_that_is_no_model_is_not_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("ten years")
    with pytest.raises(InputError, match=r"mine: exists and has no model\.json"):
        save(small(), tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.tex"}
    (tmp_path / "mine" / "model.json").write_text('{"learner": {"name": "gbtree"}}')
    with pytest.raises(InputError, match=r"mine: exists and has no model\.json of this package"):
        save(small(), tmp_path / "mine")
    assert contents(tmp_path / "mine") == {"thesis.tex", "model.json"}
    assert contents(tmp_path) == {"mine"}


def test_a_model_is_not_replaced_with_somebodys_file_in_its_folder(tmp_path):
    save(small(), tmp_path / "june")
    (tmp_path / "june" / "notes.md").write_text("the best so far")
    before = contents(tmp_path / "june")
    with pytest.raises(InputError, match=r"notes\.md: would be lost, since .*june is replaced"):
        save(small(), tmp_path / "june")
    assert contents(tmp_path / "june") == before
    (tmp_path / "june" / "notes.md").unlink()
    save(small(), tmp_path / "june")


def test_a_model_replaces_an_older_one_whole(tmp_path):
    save(general_of({"old": np.ones(3)}, seed=1), tmp_path / "model")
    save(small(), tmp_path / "model")
    same_model(load(tmp_path / "model"), small())
    assert contents(tmp_path / "model" / "state") == {"network", "text.npy"}
    assert contents(tmp_path) == {"model"}


def test_a_save_that_fails_leaves_the_older_model(tmp_path, monkeypatch):
    save(small(), tmp_path / "model")
    with monkeypatch.context() as patch:
        patch.setattr(module, "seal", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save(general_of({}, seed=1), tmp_path / "model")
    same_model(load(tmp_path / "model"), small())
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
    with pytest.raises(InputError, match=r"mu\.npy: altered .*; delete .*optimizer and"):
        load(folder, optimizer=True)
    shutil.rmtree(folder / "optimizer")
    assert load(folder, optimizer=True).optimizer is None
    same_model(load(folder), general)


def test_the_optimizer_of_another_model_is_refused(trained, tmp_path):
    general, folder = trained
    save(replace(general, seed=8), tmp_path / "other")
    shutil.rmtree(folder / "optimizer")
    (tmp_path / "other" / "optimizer").rename(folder / "optimizer")
    with pytest.raises(InputError, match=r"optimizer: of another model than .*model\.json; delete"):
        load(folder, optimizer=True)


def test_a_digest_stands_for_all_files_however_a_model_is_read(trained):
    _, folder = trained
    written = json.loads((folder / MANIFEST).read_text())
    assert load(folder).origin.digest == written["digest"]
