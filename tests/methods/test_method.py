"""What every method has in common: what it takes, and what it refuses."""

import gc
import weakref
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from toy import dataset

from metaheac_jax.audience.retrieve import expand_all
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.methods import online
from metaheac_jax.methods import record as module
from metaheac_jax.methods.campaign_graph import hubble
from metaheac_jax.methods.fine_tuning import metaheac, mlp_pretraining
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.registry import method_of
from metaheac_jax.methods.seed_features import compiled_direction
from metaheac_jax.methods.similarity import cosine
from metaheac_jax.methods.solved_heads import compiled_solver
from metaheac_jax.methods.stages import Run, Trained, epoch_steps
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.schema import Field, Schema, Vocabulary
from metaheac_jax.settings import OFFICIAL, PAPER
from metaheac_jax.table.layout import Layout
from metaheac_jax.training.sharding import device_mesh

DATA = dataset(users=100, campaigns=6, per_campaign=40, pool=40)


def score_nothing(run, state, campaigns):
    return [lambda users: np.zeros(len(users)) for _ in campaigns]


def noting(seen):
    """A method that learns nothing and notes what its stages are given."""

    def train(run):
        seen.append(run)
        return Trained({})

    def adapt(run, state, campaigns):
        seen.append((run, state, campaigns))
        return score_nothing(run, state, campaigns)

    return Method("noting", "Noting", PAPER, train=train, adapt=adapt)


def test_a_general_model_says_what_it_was_trained_on(tmp_path):
    seen = []
    method = noting(seen)
    general = method.fit(
        DATA,
        campaigns=[4, 1],
        seed=7,
        directory=tmp_path / "own",
        log=tmp_path / "log",
        progress=print,
    )
    assert (general.method, general.data, general.seed) == ("noting", "toy", 7)
    assert general.campaigns == (140, 110)  # campaign i has the id 100 + 10 i
    assert general.settings == PAPER
    assert (general.schema, general.vocabulary) == (DATA.schema, DATA.vocabulary)
    [run] = seen
    assert run.dataset is DATA
    assert run.campaigns.tolist() == [4, 1]
    rest = (run.settings, run.seed, run.directory, run.log, run.progress)
    assert rest == (PAPER, 7, tmp_path / "own", tmp_path / "log", print)
    method.fit(DATA)
    assert seen[1].campaigns.tolist() == [*range(6)]


def test_campaigns_are_customised_in_the_order_given():
    seen = []
    method = noting(seen)
    general = method.fit(DATA)
    chosen = [DATA.campaign(3), DATA.new_campaign([3, 10], {"advertiser": 1, "category": 2})]
    watch = lambda step, models: None  # noqa: E731
    models = method.customise(general, DATA, chosen, seed=5, progress=print, watch=watch)
    assert [model.campaign for model in models] == chosen
    assert all(model.general is general for model in models)
    run, state, campaigns = seen[1]
    assert (run.dataset, run.seed, run.progress, run.watch) == (DATA, 5, print, watch)
    assert (state, campaigns) == (general.state, chosen)
    assert models[1].score(DATA.user_rows[:3]).tolist() == [0, 0, 0]


def test_settings_are_changed_by_name():
    method = cosine(PAPER).with_settings(width=3)
    assert method.settings == replace(PAPER, width=3)
    assert method.name == "cosine"


def test_an_epoch_is_as_many_steps_as_batches_of_the_examples():
    # 3 campaigns of 40 examples: 120; of B = 50, three steps, the last one begun.
    settings = replace(PAPER, batch_size=50)
    assert epoch_steps(Run(DATA, np.array([0, 2, 3]), settings, 0)) == 3
    settings = replace(settings, batch_size=40)
    assert epoch_steps(Run(DATA, np.array([0, 2, 3]), settings, 0)) == 3


# What is refused --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def general():
    return cosine().fit(DATA)


def refused(general, data, said):
    with pytest.raises(InputError, match=said) as error:
        cosine().customise(general, data, [DATA.campaign(0)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("schema", "first"),
    [
        (Schema((*DATA.schema.user[:2], Field("tokens", 3)), DATA.schema.campaign), "'tokens'"),
        (Schema((Field("sex"), *DATA.schema.user[1:]), DATA.schema.campaign), "'sex'"),
        (Schema(DATA.schema.user[::-1], DATA.schema.campaign), "'tokens'"),
        (Schema(DATA.schema.user, DATA.schema.campaign[::-1]), "'category'"),
        (Schema(DATA.schema.user, (*DATA.schema.campaign, Field("x"))), "'the number of fields'"),
        # As many fields, of which one has changed sides.
        (
            Schema((*DATA.schema.user, Field("advertiser")), DATA.schema.campaign[1:]),
            "'the number of fields'",
        ),
    ],
)
def test_data_of_another_schema_are_refused(general, schema, first):
    data = replace(DATA, schema=schema)
    refused(general, data, f"toy: of another schema than the model, first in {first}")


@pytest.mark.parametrize(
    ("field", "values"),
    [(2, np.arange(29)), (2, np.arange(1, 31)), (4, np.arange(4)), (0, np.array(["f", "m"]))],
)
def test_data_of_another_vocabulary_are_refused(general, field, values):
    own = list(DATA.vocabulary.values)
    own[field] = values
    name = DATA.schema.fields[field].name
    data = replace(DATA, vocabulary=Vocabulary(tuple(own)))
    told = f"toy: field '{name}' has other values than in the model's data"
    refused(general, data, told)
    refused(general, data, "--extends MODEL --no-new-values")


def test_the_processes_of_a_job_compare_what_decides_the_result(monkeypatch):
    """A command is typed on every machine; with another option it would hang, or mix results."""
    tiny = {"offline_epochs": 0, "offline_patience": None, "campaigns_per_step": 2}
    method, mesh = (
        mlp_pretraining(PAPER).with_settings(width=2, online_epochs=1, **tiny),
        device_mesh(),
    )
    told: list[dict] = []

    def note(what, value):
        told[-1][what] = value

    for name in ("methods.method", "audience.retrieve"):
        monkeypatch.setattr(f"metaheac_jax.{name}.check_same", note)

    def work(*, method=method, size=5, fit=None, customise=0, campaign=3, exclude=()):
        told.append({})
        general = method.fit(DATA, mesh=mesh, **{"seed": 0, "campaigns": [0, 1, 2], **(fit or {})})
        campaigns = [DATA.campaign(campaign)]
        models = method.customise(general, DATA, campaigns, mesh=mesh, seed=customise)
        expand_all(models, DATA, size=size, exclude=exclude, mesh=mesh)
        return told.pop()

    usual = work()
    assert work() == usual
    training, adapting = "settings, campaigns and seed", "settings, seed and campaigns to customise"
    expanding = "ranks and users left out"
    other = method.with_settings(online_learning_rate=0.5)
    for changed, parts in (
        ({"fit": {"seed": 1}}, {training}),
        ({"fit": {"campaigns": [0, 1, 4]}}, {training}),
        ({"fit": {"skip_nonfinite": 1}}, {training}),
        ({"method": other}, {training, adapting}),
        ({"customise": 1}, {adapting}),
        ({"campaign": 4}, {adapting, expanding}),
        ({"size": 6}, {expanding}),
        ({"exclude": DATA.user_ids[:1]}, {expanding}),
    ):
        found = work(**changed)
        assert {what for what in usual if found[what] != usual[what]} == parts


def test_other_data_of_the_same_fields_and_values_will_do(general):
    other = dataset(users=50, campaigns=3, per_campaign=30, pool=30, seed=9)
    [model] = cosine().customise(general, other, [other.campaign(1)])
    assert np.isfinite(model.score(other.user_rows)).all()


def test_a_general_model_of_another_method_is_refused(general):
    with pytest.raises(InputError, match="trained by 'cosine', not by 'metaheac'; use its own"):
        metaheac().customise(general, DATA, [DATA.campaign(0)])


@pytest.mark.parametrize("chosen", [[], [6], [-1], [1, 1], [0.0, 1.0], [True, False], [[0, 1]], 0])
def test_campaigns_that_are_no_indices_are_refused(chosen):
    said = "toy: campaigns: expected one or more distinct indices from 0 to 5"
    with pytest.raises(InputError, match=said):
        cosine().fit(DATA, campaigns=chosen)


@pytest.mark.parametrize("build", [metaheac, mlp_pretraining, hubble])
def test_fewer_campaigns_than_a_step_takes_are_refused(build):
    with pytest.raises(InputError, match=r"toy: 4 training campaigns, but .+ needs 5; add .+ 'lr'"):
        build(PAPER).fit(DATA, campaigns=[0, 1, 2, 3])


def test_fewer_campaigns_than_a_step_takes_are_refused_after_holding_out():
    method = replace(noting([]), takes_steps=True)
    words = r"toy: 3 training campaigns \(besides 3 that are held out\), but .+ needs 5; add "
    with pytest.raises(InputError, match=words + r"campaigns, hold none out \(.*--epochs N\), or"):
        method.fit(DATA)


@pytest.mark.parametrize("build", [metaheac, cosine])
@pytest.mark.parametrize(("label", "seeds"), [(0, 0), (1, 40)])
def test_a_campaign_of_a_single_class_is_refused(build, label, seeds):
    labels = DATA.stage1.label.copy()
    labels[DATA.stage1.of(2)] = label
    data = replace(DATA, stage1=replace(DATA.stage1, label=labels))
    with pytest.raises(InputError, match=f"campaign 120: stage 1 has {seeds} seeds among 40"):
        build(OFFICIAL).fit(data)
    # It may be there, if no model is trained on it.
    cosine().fit(data, campaigns=[0, 1, 3])


def test_scores_that_are_not_numbers_are_no_scores(general):
    [model] = cosine().customise(general, DATA, [DATA.campaign(3)])
    broken = replace(model, scorer=lambda users: np.array([0.0, np.nan]))
    with pytest.raises(Diverged, match="campaign 130: a score of cosine is not a number"):
        broken.score(DATA.user_rows[:2])


def test_checkpoints_of_another_training_are_refused(tmp_path):
    method, directory = noting([]), tmp_path / "offline-0.001"
    method.fit(DATA, seed=1, directory=directory)
    method.fit(DATA, seed=1, directory=str(directory))
    online = method.with_settings(online_learning_rate=0.5)  # has no part in the offline stage
    online.fit(DATA, seed=1, directory=directory)
    method.fit(DATA, seed=2, directory=tmp_path / "offline-0.005")  # its name differs in the end
    for other, changes, what in (
        (method, {"seed": 2}, "seed"),
        (method, {"campaigns": [0, 1]}, "campaigns"),
        (method.with_settings(outer_learning_rate=0.5), {}, "settings"),
        (replace(method, name="other"), {}, "method"),
    ):
        with pytest.raises(InputError, match=f"started with another {what}.*; use the same, or"):
            other.fit(DATA, **({"seed": 1} | changes), directory=directory)
    # It has a part if customised models tell when training stops.
    judging = replace(method.with_settings(offline_patience=1, offline_epochs=1), holds_out=True)
    judging.fit(DATA, seed=1, directory=tmp_path / "judged")
    online = judging.with_settings(online_learning_rate=0.5)
    with pytest.raises(InputError, match="started with another settings"):
        online.fit(DATA, seed=1, directory=tmp_path / "judged")


def test_checkpoints_with_other_held_out_campaigns_are_refused(tmp_path):
    method = replace(noting([]), holds_out=True)
    fit = partial(method.fit, DATA, campaigns=range(4), directory=tmp_path / "c")
    fit(held_out=[4])
    fit(held_out=[4])
    with pytest.raises(InputError, match="started with another held_out; use the same, or"):
        fit(held_out=[5])


def test_checkpoints_that_nothing_describes_are_refused(tmp_path):
    """As those of a folder that was renamed without the file beside it."""
    method, directory = noting([]), tmp_path / "c"
    method.fit(DATA, seed=1, directory=directory)
    (directory / "member" / "20").mkdir(parents=True)
    (directory / "member" / "20" / "checkpoint.json").write_text("{}")
    directory.rename(tmp_path / "moved")
    with pytest.raises(InputError, match=r"moved.json, which describes.*; move both together, or"):
        method.fit(DATA, seed=1, directory=tmp_path / "moved")
    (tmp_path / "c.json").rename(tmp_path / "moved.json")
    method.fit(DATA, seed=1, directory=tmp_path / "moved")


def test_checkpoints_after_another_model_in_memory_are_refused(tmp_path):
    """It has taken as many steps."""

    def train(run):
        state = {"weights": np.full(3, float(run.seed))}
        return Trained(state, optimizer={"count": np.array(7)})

    method = replace(noting([]), train=train, takes_steps=True)
    one, two = (method.fit(DATA, campaigns=[0, 1, 2, 3, 4], held_out=[5], seed=s) for s in (1, 2))
    fit = partial(method.fit, DATA, campaigns=range(5), held_out=[5], directory=tmp_path / "c")
    fit(start=one)
    fit(start=one)
    with pytest.raises(InputError, match=r"started with another start; use the same, or"):
        fit(start=two)


def test_the_working_directory_may_have_the_checkpoints(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "own.py").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    noting([]).fit(DATA, directory=".")
    assert (tmp_path / "here.json").is_file()


def test_data_and_models_are_compared_by_identity(general):
    """Arrays have no single truth value."""
    for own in (DATA, DATA.stage1, DATA.campaign(3), general):
        assert own == own
        assert own != replace(own)
        hash(own)


def test_checkpoints_of_another_environment_are_gone_on_from_only_if_that_is_allowed(
    tmp_path, monkeypatch
):
    fit = partial(noting([]).fit, DATA, campaigns=[0, 1, 2], directory=tmp_path / "c")
    monkeypatch.setattr(module, "environment", lambda: {"jax": "1"})
    fit()
    monkeypatch.setattr(module, "environment", lambda: {"jax": "2"})
    with pytest.raises(InputError, match=r"another jax.*--allow-change jax"):
        fit()
    with pytest.warns(UserWarning, match="which was allowed"):
        fit(allow_changes=["jax"])


def test_judge_refuses_what_cannot_be_judged():
    method = noting([])
    general, label = method.fit(DATA), DATA.stage1.label.copy()
    label[DATA.stage1.of(2)] = 0
    single = replace(DATA, stage1=replace(DATA.stage1, label=label))
    values = DATA.vocabulary.values
    other = Vocabulary((values[0] + 1, *values[1:]))
    assert method.judge(general, DATA, [2]).auc == 0.5
    for own, data, campaigns, seed, said in (
        (replace(method, name="other"), DATA, [2], 0, "trained by 'noting', not by 'other'"),
        (method, replace(DATA, vocabulary=other), [2], 0, "has other values"),
        (method, DATA, [2], -1, "seed: expected a whole number of 0 or more"),
        (method, DATA, [], 0, "campaigns: expected one or more distinct indices"),
        (method, DATA, [1, 1], 0, "campaigns: expected one or more distinct indices"),
        (method, DATA, [0.5], 0, "campaigns: expected one or more distinct indices"),
        (method, single, [2], 0, "campaign 120: has 0 seeds and 40 non-seeds; a held-out"),
    ):
        with pytest.raises(InputError, match=said):
            own.judge(general, data, campaigns, seed=seed)


def test_a_method_is_had_back_from_its_general_model():
    method = hubble(PAPER).with_settings(online_learning_rate=0.123, width=4)
    general = replace(noting([]).fit(DATA), method="hubble", settings=method.settings)
    assert method_of(general).settings == method.settings
    assert method_of(general).label == method.label


@pytest.mark.parametrize(
    ("name", "value"),
    [("width", 4), ("num_experts", 2), ("num_critics", 2), ("mixture", "mean")],
)
def test_settings_of_another_network_are_refused(name, value):
    method = noting([])
    general = method.fit(DATA)
    with pytest.raises(InputError, match=f"was trained with {name}"):
        method.with_settings(**{name: value}).customise(general, DATA, [DATA.campaign(0)])


def test_what_is_no_list_of_campaigns_or_no_seed_is_refused():
    method = noting([])
    general = method.fit(DATA)
    for seed in (-1, 1.5, True):
        with pytest.raises(InputError, match="seed: expected a whole number of 0 or more"):
            method.fit(DATA, seed=seed)
        with pytest.raises(InputError, match="seed: expected a whole number of 0 or more"):
            method.customise(general, DATA, [DATA.campaign(0)], seed=seed)
    with pytest.raises(InputError, match="expected a list of campaigns, but it contains 3"):
        method.customise(general, DATA, [3])
    with pytest.raises(InputError, match=r"expected a list of campaigns, got one; write \[camp"):
        method.customise(general, DATA, DATA.campaign(0))


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0},
        {"width": 4.5},
        {"width": "16"},
        {"offline_epochs": -1},
        {"online_patience": 0},
        {"outer_learning_rate": float("inf")},
        {"online_learning_rate": -1},
        {"inner_learning_rate": float("nan")},
        {"mixture": "product"},
        {"reduction": "max"},
        {"disjoint": 1},
    ],
)
def test_settings_out_of_range_are_refused(change):
    [name] = change
    with pytest.raises(InputError, match=f"settings: {name}: expected"):
        replace(PAPER, **change)


@pytest.mark.parametrize(
    "build",
    [
        lambda layout: online.compiled_scorer(MLP(), layout),
        lambda layout: online._customiser(MLP(), layout, 8, "all", None),
        lambda layout: compiled_solver(online.compiled_scorer(MLP(), layout)),
        compiled_direction,
    ],
)
def test_programs_are_kept_for_the_latest_layouts_only(build):
    """A service whose layout changes every day would else need more and more memory."""
    layouts = [Layout((1,), (), number) for number in range(online.PROGRAMS_KEPT + 1)]
    first, second, *_ = [weakref.ref(build(layout)) for layout in layouts]
    gc.collect()
    assert first() is None
    assert second() is build(layouts[1])
