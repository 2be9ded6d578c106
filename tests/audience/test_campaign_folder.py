"""A campaign folder: the same scores after loading, damage named, feedback and updates."""

from dataclasses import replace

import jax
import numpy as np
import polars as pl
import pytest
from commands import contents, full_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import dataset, with_shares

from metaheac_jax.audience import campaign_folder
from metaheac_jax.audience.campaign_folder import (
    MANIFEST,
    add_feedback,
    load_customised,
    read_campaign,
    save_customised,
    update_customised,
)
from metaheac_jax.audience.retrieve import expand
from metaheac_jax.audience.shown import share_to_keep
from metaheac_jax.customise.early_stopping import hold_out
from metaheac_jax.data.campaign_record import Feedback
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import writer_of
from metaheac_jax.methods import METHODS, method_named, method_of
from metaheac_jax.model import AdaptedWeights, load, save
from metaheac_jax.settings import PAPER

TINY = replace(PAPER, width=2, num_experts=2, num_critics=2, batch_size=32, campaigns_per_step=2)
ATTRIBUTES = {"advertiser": 4, "category": 2}
#: Methods that differ in what they restore; the others are as mlp-pretraining.
DISTINCT = (
    *("mlp-embeddings", "shared-bottom", "mmoe", "metaheac-lengths", "seed-aware", "ensemble"),
    *("lr", "lr-lengths"),
)


def world():
    """With text as user ids: u3, u10, u17, ..."""
    data = dataset(users=150, campaigns=6, per_campaign=60, pool=40)
    return replace(data, user_ids=np.array([f"u{key}".encode() for key in data.user_ids]))


DATA = world()
SEEDS = [f"u{7 * user + 3}" for user in (5, 17, 80, 99)]


def feedback(*converted, **others):
    """Of users by index; the first ones converted, those ``not_converted`` did not."""
    users = [*converted, *others.get("not_converted", ())]
    return Feedback.of(DATA.user_ids[users], np.arange(len(users)) < len(converted))


def fitted(folder, name="mlp-pretraining", seed=4):
    """A general model from a folder."""
    method = method_named(name, TINY)
    method = method.with_settings(offline_epochs=0, online_epochs=1, online_patience=None)
    save(with_shares(method.fit(DATA, campaigns=[0, 1, 2], seed=seed)), folder)
    return load(folder)


def customised(general, data=DATA, exclude=()):
    campaign = data.new_campaign(SEEDS, ATTRIBUTES, non_seeds_per_seed=8, exclude=exclude)
    [model] = method_of(general).customise(general, data, [campaign], seed=3)
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a general model, a saved campaign ``tea`` and what was saved."""
    folder = tmp_path_factory.mktemp("made")
    general = fitted(folder / "model")
    model = customised(general)
    save_customised(model, DATA, folder / "tea")
    return folder, general, model


@pytest.fixture
def campaign(made, tmp_path):
    """A campaign folder of one's own."""
    _, general, model = made
    save_customised(model, DATA, tmp_path / "tea")
    return tmp_path / "tea", general


def scores(model):
    return model.score(DATA.user_rows)


# Saved and loaded -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTINCT)
def test_scores_are_the_same_to_the_bit_after_loading(tmp_path, name):
    general = fitted(tmp_path / "model", name)
    model = customised(general)
    save_customised(model, DATA, tmp_path / "tea")
    loaded = load_customised(tmp_path / "tea", load(tmp_path / "model"), DATA)
    np.testing.assert_array_equal(scores(loaded), scores(model))
    np.testing.assert_array_equal(np.sort(loaded.seed_ids), np.sort(model.seed_ids))
    np.testing.assert_array_equal(loaded.campaign.users, model.campaign.users)
    np.testing.assert_array_equal(loaded.campaign.labels, model.campaign.labels)
    np.testing.assert_array_equal(loaded.campaign.rows, model.campaign.rows)


@pytest.mark.parametrize("name", ["lr", "solved-head"])
def test_a_campaign_that_has_adapted_nothing_is_the_general_model(tmp_path, name):
    method = method_named(name, TINY).with_settings(offline_epochs=0, online_epochs=0)
    save(method.fit(DATA, campaigns=[0, 1, 2]), tmp_path / "model")
    general = load(tmp_path / "model")
    model = customised(general)
    save_customised(model, DATA, tmp_path / "tea")
    loaded = load_customised(tmp_path / "tea", general, DATA)
    assert loaded.is_general
    np.testing.assert_array_equal(scores(loaded), scores(model))


def test_a_model_with_heads_of_its_own_is_restored_on_the_general_ones(made, tmp_path):
    """What is not adapted is not kept, and comes from the general model."""
    _, general, full = made
    method = method_of(general).with_settings(online_adapts="heads")
    campaign = DATA.new_campaign(SEEDS, ATTRIBUTES, non_seeds_per_seed=8)
    [model] = method.customise(general, DATA, [campaign])
    save_customised(model, DATA, tmp_path / "tea")
    loaded = load_customised(tmp_path / "tea", general, DATA)
    np.testing.assert_array_equal(scores(loaded), scores(model))
    assert len(loaded.adapted.rows) == 0
    leaves = (jax.tree.leaves(own.adapted.network) for own in (loaded, full))
    assert len(next(leaves)) < len(next(leaves))


def test_every_method_that_adapts_weights_can_be_saved():
    without = {name for name in METHODS if method_named(name).restore is None}
    assert without == {"pinterest", "hubble", "lightgbm", "cosine", "prior"}


@pytest.mark.parametrize("name", ["cosine", "pinterest"])
def test_a_method_without_adapted_weights_is_refused(tmp_path, name):
    model = customised(fitted(tmp_path / "model", name))
    with pytest.raises(InputError, match=f"'{name}' adapts no network's weights"):
        save_customised(model, DATA, tmp_path / "tea")
    assert contents(tmp_path) == {"model"}


def test_only_rows_that_changed_are_kept(made):
    folder, general, model = made
    table, kept = np.asarray(general.state["table"]), read_campaign(folder / "tea").adapted
    full, real = table.copy(), model.adapted.rows < len(table)
    full[model.adapted.rows[real]] = np.asarray(model.adapted.values)[real]
    changed = np.flatnonzero((full != table).any(axis=1))
    assert 5 < len(changed) < len(table)
    np.testing.assert_array_equal(np.sort(kept.rows), changed)
    np.testing.assert_array_equal(kept.values, full[kept.rows])


def test_users_and_feedback_are_plain_parquet(campaign):
    folder, _ = campaign
    add_feedback(folder, feedback(3, not_converted=[9]))
    examples = pl.read_parquet(folder / "examples.parquet")
    seeds = examples.filter(pl.col("label") == 1)["user_id"].to_list()
    assert sorted(seeds) == sorted(SEEDS)
    assert len(examples) == 9 * len(SEEDS)
    rows = pl.read_parquet(folder / "feedback.parquet").rows()
    assert rows == [("u24", 1), ("u66", 0)]


def test_whole_numbers_stay_whole_numbers(tmp_path):
    data = dataset(users=150, campaigns=6, per_campaign=60, pool=40)
    general = fitted(tmp_path / "model")
    campaign = data.new_campaign([3, 10, 17], {"advertiser": np.int64(4), "category": 2})
    [model] = method_of(general).customise(general, data, [campaign])
    save_customised(model, data, tmp_path / "tea")
    saved = add_feedback(tmp_path / "tea", Feedback.of(np.array([24, 10]), np.array([1, 0])))
    assert saved.examples.user_ids.dtype == np.int64
    assert saved.record.attributes == {"advertiser": 4, "category": 2}
    loaded = load_customised(tmp_path / "tea", general, data)
    assert set(loaded.seed_ids.tolist()) == {3, 10, 17, 24}
    np.testing.assert_array_equal(scores(loaded), scores(model))


def test_user_ids_that_became_text_are_found(tmp_path):
    """Who is excluded and who has feedback, by whole numbers, are users of data with text."""
    data = dataset(users=150, campaigns=6, per_campaign=60, pool=40)
    general = fitted(tmp_path / "model")
    options = {"non_seeds_per_seed": 8, "exclude": [10, 31]}
    campaign = data.new_campaign([3, 10, 17, 24], ATTRIBUTES, **options)
    [model] = method_of(general).customise(general, data, [campaign])
    folder = tmp_path / "tea"
    save_customised(model, data, folder)
    add_feedback(folder, Feedback.of(np.array([38, 45]), np.array([1, 0])))
    text = replace(data, user_ids=data.user_ids.astype("S"))
    loaded, same = (load_customised(folder, general, own) for own in (text, data))
    np.testing.assert_array_equal(loaded.excluded_ids, [b"10", b"31"])
    assert set(loaded.seed_ids.tolist()) == {b"3", b"17", b"24", b"38"}
    np.testing.assert_array_equal(loaded.campaign.users, same.campaign.users)
    np.testing.assert_array_equal(loaded.campaign.found, same.campaign.found)
    saved = update_customised(folder, general, text, exclude=["45", "A17"])
    assert saved.excluded.tolist() == [b"10", b"31", b"45", b"A17"]
    assert not {b"10", b"31", b"45"} & set(saved.examples.user_ids.tolist())
    assert read_campaign(folder).is_up_to_date(general)
    words = "campaign tea: user ids: expected whole numbers, got 'A17', since toy has no text"
    with pytest.raises(InputError, match=words):
        update_customised(folder, general, data)


def test_user_ids_that_became_text_for_a_day_become_numbers_again(tmp_path):
    data = dataset(users=150, campaigns=6, per_campaign=60, pool=40)
    general = fitted(tmp_path / "model")
    campaign = data.new_campaign([3, 10, 17, 24], ATTRIBUTES, exclude=[31], non_seeds_per_seed=8)
    [model] = method_of(general).customise(general, data, [campaign])
    folder = tmp_path / "tea"
    save_customised(model, data, folder)
    add_feedback(folder, Feedback.of(np.array([38, 45]), np.array([1, 0])))
    before = update_customised(folder, general, data)
    update_customised(folder, general, replace(data, user_ids=data.user_ids.astype("S")))
    assert read_campaign(folder).record.user_ids.dtype.kind == "S"
    after = update_customised(folder, general, data)
    for own, same in (
        (before.record.user_ids, after.record.user_ids),
        (before.excluded, after.excluded),
    ):
        np.testing.assert_array_equal(own, same)
    np.testing.assert_array_equal(before.feedback.user_ids, after.feedback.user_ids)
    assert after.record.user_ids.dtype == np.int64


def test_user_ids_of_another_kind_are_refused(campaign):
    """They would be taken for users whom the campaign does not know."""
    folder, _ = campaign
    before, numbers = bytes_of(folder), np.array([3, 10, 17])
    words = "user ids: expected text in UTF-8 bytes, as the campaign has, got whole numbers; give"
    with pytest.raises(InputError, match=words):
        add_feedback(folder, Feedback.of(numbers, np.array([1, 0, 0])))
    assert bytes_of(folder) == before


def test_another_general_model_is_refused(made, tmp_path):
    folder, general, _ = made
    other = fitted(tmp_path / "other", seed=5)
    assert other.origin is not None
    for wrong, where in (
        (other, f"in {other.origin.folder}"),
        (replace(general, origin=None), "in memory"),
    ):
        words = f"campaign tea: was customised from another general model than that {where}; "
        with pytest.raises(InputError, match=words):
            load_customised(folder / "tea", wrong, DATA)


def test_what_cannot_be_saved_is_refused(made, tmp_path):
    _, general, model = made
    [own] = method_of(general).customise(general, DATA, [DATA.campaign(5)])
    others = dataset(users=150, campaigns=6, per_campaign=60, pool=40)
    for wrong, data, words in (
        (
            replace(model, general=replace(general, origin=None)),
            DATA,
            "customise what `save` or `load`",
        ),
        (own, DATA, "campaign 150: belongs to a data set"),
        (model, others, "toy: not the data that new campaign was customised on"),
    ):
        with pytest.raises(InputError, match=words):
            save_customised(wrong, data, tmp_path / "tea")
    (tmp_path / "tea").mkdir()
    (tmp_path / "tea" / "thesis.tex").write_text("ten years")
    with pytest.raises(InputError, match=r"tea: exists and has no campaign\.json"):
        save_customised(model, DATA, tmp_path / "tea")
    assert contents(tmp_path / "tea") == {"thesis.tex"}


def test_users_who_are_gone_are_left_out(made):
    folder, general, model = made
    data = replace(DATA, user_ids=DATA.user_ids[20:], user_rows=DATA.user_rows[20:])
    loaded = load_customised(folder / "tea", general, data)
    assert len(loaded.campaign.unmatched) == 2
    assert len(loaded.campaign.seeds) == 2
    assert sorted(loaded.seed_ids.tolist()) == sorted(seed.encode() for seed in SEEDS)
    np.testing.assert_array_equal(loaded.score(data.user_rows), scores(model)[20:])


def test_data_without_any_user_of_the_campaign_is_scored(made):
    folder, general, model = made
    new = ~np.isin(DATA.user_ids, read_campaign(folder / "tea").record.user_ids)
    data = replace(DATA, user_ids=DATA.user_ids[new], user_rows=DATA.user_rows[new])
    loaded = load_customised(folder / "tea", general, data)
    np.testing.assert_array_equal(loaded.score(data.user_rows), scores(model)[new])
    audience = expand(loaded, data, size=200)
    assert set(audience.user_ids.tolist()) == {user.decode() for user in data.user_ids.tolist()}


@pytest.mark.parametrize(("label", "words"), [(0, "none of its non-seeds"), (1, "none of its 4")])
def test_an_update_needs_seeds_and_non_seeds_in_the_data(campaign, label, words):
    folder, general = campaign
    record = read_campaign(folder).record
    gone = np.isin(DATA.user_ids, record.user_ids[record.labels == label])
    data = replace(DATA, user_ids=DATA.user_ids[~gone], user_rows=DATA.user_rows[~gone])
    with pytest.raises(InputError, match=words):
        update_customised(folder, general, data)


def test_seeds_whom_the_data_lacked_are_seeds_where_it_has_them(made, tmp_path):
    _, general, _ = made
    earlier = replace(DATA, user_ids=DATA.user_ids[:90], user_rows=DATA.user_rows[:90])
    model = customised(general, earlier)
    assert len(model.campaign.seeds) == 3
    save_customised(model, earlier, tmp_path / "tea")
    loaded = load_customised(tmp_path / "tea", general, DATA)
    assert set(loaded.campaign.seeds.tolist()) == {5, 17, 80, 99}
    for own in (model, loaded, load_customised(tmp_path / "tea", general, earlier)):
        audience = expand(own, DATA, size=150)
        assert not set(audience.user_ids.tolist()) & set(SEEDS)
        assert len(audience) == 146
    save_customised(own, earlier, tmp_path / "tea")
    assert read_campaign(tmp_path / "tea").examples.labels.sum() == 4


# Damage -----------------------------------------------------------------------------------------


def files_of(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_campaign_has_these_files(made):
    files = files_of(made[0] / "tea")
    plain = [name for name in files if not name.startswith("adapted/network/params/")]
    assert plain == [
        "adapted/rows.npy",
        "adapted/values.npy",
        "campaign.json",
        "examples.parquet",
        "excluded.parquet",
        "feedback.parquet",
    ]
    assert len(files) > 10


@given(st.data(), st.floats(0, 1, exclude_max=True), st.integers(0, 7))
@settings(max_examples=60)
def test_a_flipped_bit_anywhere_is_noticed_and_its_file_named(made, data, place, bit):
    folder = made[0] / "tea"
    path = folder / data.draw(st.sampled_from(files_of(folder)))
    content = path.read_bytes()
    spoilt = bytearray(content)
    spoilt[int(place * len(spoilt))] ^= 1 << bit
    path.write_bytes(spoilt)
    try:
        with pytest.raises(InputError) as refused:
            read_campaign(folder)
    finally:
        path.write_bytes(content)
    assert path.name in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "`metaheac customise`" in str(refused.value)


def test_a_missing_file_is_named(campaign):
    folder, _ = campaign
    for name in files_of(folder):
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(InputError, match=name.rpartition("/")[2]):
            read_campaign(folder)
        (folder / name).write_bytes(content)
    read_campaign(folder)


# Feedback and updates ---------------------------------------------------------------------------


def test_feedback_changes_who_is_a_seed_and_no_score(campaign, made):
    folder, general = campaign
    model = made[2]
    non_seed = int(model.campaign.users[-1])
    seed = 5
    told = feedback(non_seed, 3, not_converted=[seed, int(model.campaign.users[-2]), 9])
    saved = add_feedback(folder, told)
    assert saved.learned == (0, 0, 0)
    loaded = load_customised(folder, general, DATA)
    np.testing.assert_array_equal(scores(loaded), scores(model))
    assert set(loaded.campaign.seeds.tolist()) == {5, 17, 80, 99, 3, non_seed}
    before = set(model.campaign.users.tolist())
    assert sorted(loaded.campaign.users.tolist()) == sorted(before | {3, 9})
    assert set(np.asarray(loaded.campaign.found).tolist()) == {3, 9, non_seed}
    assert not len(load_customised(made[0] / "tea", general, DATA).campaign.found)
    gone = replace(DATA, user_ids=DATA.user_ids[4:], user_rows=DATA.user_rows[4:])
    assert set(load_customised(folder, general, gone).campaign.found + 4) == {9, non_seed}


def test_replaced_feedback_is_forgotten_by_the_next_update(campaign, made):
    folder, general = campaign
    first = update_customised(folder, general, DATA)
    add_feedback(folder, feedback(1, 2, 3, not_converted=[4]))
    update_customised(folder, general, DATA)
    saved = add_feedback(folder, feedback(), replace_all=True)
    assert (len(saved.feedback), saved.learned) == (0, None)
    saved = read_campaign(folder)
    assert (len(saved.feedback), saved.learned) == (0, None)
    assert not saved.is_up_to_date(general)
    assert not saved.would_stay(general, DATA, 0)
    saved = update_customised(folder, general, DATA)
    assert saved.is_up_to_date(general)
    ours, theirs = (scores(one.customised(general, DATA)) for one in (saved, first))
    np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(InputError, match=r"user ids: expected text in UTF-8 bytes"):
        add_feedback(folder, Feedback.of(np.array([7]), np.array([True])), replace_all=True)


def test_a_campaign_with_feedback_is_not_saved_as_if_all_its_seeds_were_its_first(campaign):
    folder, general = campaign
    add_feedback(folder, feedback(3))
    before = bytes_of(folder)
    with pytest.raises(InputError, match=r"^campaign tea: has feedback, which only its own "):
        save_customised(load_customised(folder, general, DATA), DATA, folder)
    assert bytes_of(folder) == before


def bytes_of(folder):
    return {name: (folder / name).read_bytes() for name in files_of(folder)}


def test_neither_order_nor_repetition_of_feedback_and_updates_matters(made, tmp_path):
    """Three days of feedback, in two orders, with an update after each day or only at the end."""
    _, general, model = made
    days = [
        feedback(1, 2, not_converted=[3, 4]),
        feedback(3, not_converted=[1, 6]),
        feedback(not_converted=[2, 7, 8]),
    ]
    plans = {"one": [0, 1, 2], "two": [2, 0, 0, 1, 2]}
    for name, plan in plans.items():
        save_customised(model, DATA, tmp_path / name / "tea")
        for day in plan:
            add_feedback(tmp_path / name / "tea", days[day])
            if name == "two":
                update_customised(tmp_path / name / "tea", general, DATA)
    last = [update_customised(tmp_path / name / "tea", general, DATA) for name in plans]
    assert last[0].learned == last[1].learned == (7, 3, 0)
    again = update_customised(tmp_path / "one" / "tea", general, DATA)
    one, two, three = (scores(saved.customised(general, DATA)) for saved in (*last, again))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)
    assert np.abs(one - scores(model)).max() > 1e-4


def test_who_is_excluded_stays_out_of_all_that_follows(campaign, tmp_path):
    """Neither learned from, with or without feedback, nor in an audience, nor in later training."""
    folder, general = campaign
    model = customised(general, exclude=[*DATA.user_ids[[40, 41]].astype(str), "nobody"])
    audience = expand(model, DATA, size=150)
    assert not {*DATA.user_ids[[40, 41]].astype(str)} & {*audience.user_ids.tolist()}
    assert audience.num_candidates == len(audience) == 150 - len(SEEDS) - 2
    save_customised(model, DATA, folder)
    add_feedback(folder, feedback(1, 40, not_converted=[41, 42]))
    excluded = {5, 40, 41, 42}  # 5 is a seed, 42 has feedback
    saved = update_customised(folder, general, DATA, exclude=DATA.user_ids[[5, 42, 42]])
    assert saved.learned == (4, 2, 5)
    assert saved.is_up_to_date(general)
    ids = {b"nobody", *DATA.user_ids[sorted(excluded)].tolist()}
    assert read_campaign(folder).excluded.tolist() == sorted(ids)
    model = load_customised(folder, general, DATA)
    assert set(model.campaign.seeds.tolist()) == {17, 80, 99, 1}
    assert not excluded & set(model.campaign.users.tolist())
    joined = DATA.with_campaigns([replace(saved.examples, name="7")])
    assert not excluded & set(joined.campaign(0).users.tolist())
    for include_seeds, left in ((False, {17, 80, 99, 1} | excluded), (True, excluded)):
        audience = expand(model, DATA, size=150, include_seeds=include_seeds)
        users = set(DATA.find_users(audience.user_ids.tolist()).tolist())
        assert users == set(range(150)) - left
        assert audience.num_candidates == len(users)


def test_who_is_readmitted_counts_as_if_never_excluded(campaign):
    """The model is that of an update without the exclusion, bit for bit."""
    folder, general = campaign
    save_customised(customised(general), DATA, folder)
    add_feedback(folder, feedback(1, 40, not_converted=[41, 42]))
    never = update_customised(folder, general, DATA)
    ids = DATA.user_ids[[5, 40, 41, 77]]  # a seed, a convert, another with feedback, a user
    out = update_customised(folder, general, DATA, exclude=ids)
    assert not out.would_stay(general, DATA, 0, readmit=ids[:1])
    assert out.would_stay(general, DATA, 0, readmit=DATA.user_ids[[6]])
    assert out.would_stay(general, DATA, 0, readmit=ids, exclude=ids)
    part = update_customised(folder, general, DATA, readmit=ids[:1], exclude=DATA.user_ids[[42]])
    assert set(DATA.find_users(part.excluded).tolist()) == {40, 41, 42, 77}
    assert 5 in load_customised(folder, general, DATA).campaign.seeds
    back = update_customised(folder, general, DATA, readmit=np.append(ids, DATA.user_ids[[42, 6]]))
    assert not len(back.excluded)
    assert back.learned == never.learned
    first, last = (scores(saved.customised(general, DATA)) for saved in (never, back))
    np.testing.assert_array_equal(first, last)
    assert np.abs(first - scores(out.customised(general, DATA))).max() > 1e-4


def test_a_model_that_is_still_the_general_one_says_so(made):
    _, general, model = made
    assert not model.is_general
    method = method_of(general).with_settings(online_epochs=0)
    for adapts in ("all", "heads"):
        [kept] = method.with_settings(online_adapts=adapts).customise(
            general, DATA, [model.campaign]
        )
        assert kept.is_general
        network, rows, values = kept.adapted
        if adapts == "heads":
            own = {**network["params"]}
            name = next(iter(own))
            own[name] = jax.tree.map(lambda leaf: leaf + 1, own[name])
            network = {"params": own}
        else:
            values = values.at[0, 0].add(1)
        scorer = replace(kept.scorer, adapted=AdaptedWeights(network, rows, values))
        assert not replace(kept, scorer=scorer).is_general
    cosine = method_named("cosine", TINY)
    assert not cosine.customise(cosine.fit(DATA), DATA, [model.campaign])[0].is_general


def test_an_update_is_the_general_model_customised_to_all_examples(campaign):
    folder, general = campaign
    add_feedback(folder, feedback(1, 2, not_converted=[3, 4]))
    saved = update_customised(folder, general, DATA, seed=6)
    expected = DATA.recorded_campaign(saved.examples)
    [model] = method_of(general).customise(general, DATA, [expected], seed=6)
    np.testing.assert_array_equal(scores(load_customised(folder, general, DATA)), scores(model))


def test_few_converts_make_few_non_seeds(campaign, tmp_path):
    """As many as the model without feedback expects, whatever was learned before."""
    folder, general = campaign
    first = load_customised(folder, general, DATA)
    order = np.argsort(-scores(first))
    shown = order[~np.isin(order, first.campaign.users)][:60]
    told = feedback(shown[0], not_converted=shown[1:])
    told = told.merge(feedback(not_converted=[first.campaign.users[0], first.campaign.users[-1]]))
    add_feedback(folder, feedback(1, 2, not_converted=[3, 4]))
    update_customised(folder, general, DATA)
    add_feedback(folder, told, replace_all=True)
    saved = update_customised(folder, general, DATA, exclude=DATA.user_ids[[shown[5]]], seed=3)
    learned = np.setdiff1d(DATA.find_users(told.user_ids), [shown[5], *first.campaign.users])
    examples, rng = first.campaign, np.random.Generator(np.random.Philox(3))
    fitted_to, out = hold_out(examples.labels, 0.2, rng)
    [without] = method_of(general).customise(general, DATA, [examples.pick(fitted_to)], seed=3)
    own, others = (scores(without)[users] for users in (learned, examples.users[out]))
    share = share_to_keep(own, learned == shown[0], others, examples.labels[out])
    assert saved.share == pytest.approx(share)
    assert 0 < read_campaign(folder).share == saved.share < 0.5
    users = load_customised(folder, general, DATA).campaign.users
    kept = np.setdiff1d(users, examples.users)
    assert shown[0] in kept
    assert 1 < len(kept) < 0.5 * len(shown)
    assert set(kept) <= set(learned)
    # It is the campaign that all else learns from, too.
    np.testing.assert_array_equal(DATA.find_users(saved.examples.user_ids), users)
    # Who is kept differs between campaigns.
    purpose = b"feedback" + saved.record.seeds_digest
    sampled = DATA.find_users(saved.feedback.sample(share, purpose).user_ids)
    assert set(kept) == set(np.intersect1d(sampled, learned))
    add_feedback(folder, feedback(), replace_all=True)
    assert update_customised(folder, general, DATA).share == 1


def test_all_feedback_counts_where_the_data_has_no_first_seed(campaign):
    folder, general = campaign
    record = read_campaign(folder).record
    gone = np.isin(DATA.user_ids, record.user_ids[record.labels == 1])
    data = replace(DATA, user_ids=DATA.user_ids[~gone], user_rows=DATA.user_rows[~gone])
    add_feedback(folder, feedback(1, not_converted=[2, 3, 4, 6, 7, 8, 9]))
    assert update_customised(folder, general, data, least_seeds=1).share == 1


def test_an_update_can_take_a_new_general_model(campaign, tmp_path):
    folder, general = campaign
    new = fitted(tmp_path / "new", seed=9)
    saved = read_campaign(folder)
    assert saved.is_up_to_date(general)
    assert not saved.is_up_to_date(new)
    updated = update_customised(folder, new, DATA)
    assert updated.is_up_to_date(new)
    assert not add_feedback(folder, feedback(1)).is_up_to_date(new)
    assert read_campaign(folder).origin == new.origin
    expected = DATA.recorded_campaign(saved.examples)
    [model] = method_of(new).customise(new, DATA, [expected])
    np.testing.assert_array_equal(scores(load_customised(folder, new, DATA)), scores(model))
    with pytest.raises(InputError, match="another general model"):
        load_customised(folder, general, DATA)


def test_an_update_needs_a_general_model_in_a_folder(campaign):
    folder, general = campaign
    before = bytes_of(folder)
    with pytest.raises(InputError, match="the general model is in no folder; give one from `save`"):
        update_customised(folder, replace(general, origin=None), DATA)
    assert bytes_of(folder) == before


def test_an_update_reads_the_user_ids_once(campaign, monkeypatch):
    folder, general = campaign
    add_feedback(folder, feedback())
    read, reads = Dataset._rows_of, []
    monkeypatch.setattr(Dataset, "_rows_of", lambda *given: reads.append(given) or read(*given))
    saved = update_customised(folder, general, DATA)
    assert len(reads) == 1
    assert saved.learned == saved.known


def test_an_update_would_stay_with_the_same_model_data_and_seed_alone(campaign, tmp_path):
    folder, general = campaign
    today, tomorrow = (replace(DATA, digest=day) for day in ("today", "tomorrow"))
    assert read_campaign(folder).seed is None  # what is not known counts as the same
    assert read_campaign(folder).would_stay(general, tomorrow, 6)
    update_customised(folder, general, today, seed=6)
    saved = add_feedback(folder, feedback())
    assert (saved.data_digest, saved.seed) == ("today", 6)
    assert saved.would_stay(general, today, 6)
    assert not saved.would_stay(general, tomorrow, 6)
    assert not saved.would_stay(general, today, 7)
    assert not saved.would_stay(save(general, tmp_path / "copy"), today, 6)
    assert saved.is_up_to_date(general)
    opted_out = DATA.user_ids[:2]
    assert not saved.would_stay(general, today, 6, exclude=opted_out)
    saved = update_customised(folder, general, today, exclude=opted_out, seed=6)
    for again, stays in ((opted_out, True), (opted_out[1:], True), (DATA.user_ids[1:3], False)):
        assert saved.would_stay(general, today, 6, exclude=again) == stays
    assert not add_feedback(folder, feedback(1)).would_stay(general, today, 6)


def test_folders_may_move_together(made, tmp_path):
    """A workspace is found again wherever it is."""
    _, _, model = made
    general = fitted(tmp_path / "here" / "models" / "june")
    save_customised(replace(model, general=general), DATA, tmp_path / "here" / "campaigns" / "tea")
    (tmp_path / "here").rename(tmp_path / "there")
    origin = read_campaign(tmp_path / "there" / "campaigns" / "tea").origin
    assert origin.folder == tmp_path / "there" / "models" / "june"
    assert origin == load(origin.folder).origin


def test_what_fails_leaves_the_campaign_as_it_was(campaign, monkeypatch):
    folder, general = campaign
    add_feedback(folder, feedback(1))
    before = bytes_of(folder)
    monkeypatch.setattr(pl.DataFrame, "write_parquet", full_disk)
    for write in (
        lambda: add_feedback(folder, feedback(2)),
        lambda: update_customised(folder, general, DATA),
    ):
        with pytest.raises(OSError, match="No space left"):
            write()
    assert bytes_of(folder) == before
    assert contents(folder.parent) == {"tea"}


@pytest.mark.parametrize("change", ["feedback", "update"])
def test_a_change_locks_the_campaign_before_it_reads_it(campaign, monkeypatch, change):
    """Else what another process writes meanwhile would be lost."""
    (folder, general), writers = campaign, []

    def noted(*args, **options):
        writers.append(writer_of(folder))
        return read_campaign(*args, **options)

    monkeypatch.setattr(campaign_folder, "read_campaign", noted)
    if change == "feedback":
        add_feedback(folder, feedback(1))
    else:
        update_customised(folder, general, DATA)
    [writer] = writers
    assert writer is not None


def test_adapted_parameters_keep_their_structure(made):
    folder, _, model = made
    saved = read_campaign(folder / "tea")
    assert jax.tree.structure(saved.adapted.network) == jax.tree.structure(model.adapted.network)
    assert saved.record.name == "tea"
    assert saved.record.attributes == ATTRIBUTES
    assert (folder / "tea" / MANIFEST).is_file()
