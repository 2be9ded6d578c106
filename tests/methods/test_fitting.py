"""Training, customising and judging by any method: what a stage is given, what is refused."""

import gc
import weakref
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from toy import dataset, tiny

import metaheac_jax as mh
from metaheac_jax.customising.score import PROGRAMS_KEPT, network_function
from metaheac_jax.errors import Busy, Diverged, InputError
from metaheac_jax.methods import Method, Trained, configured, pretraining, register
from metaheac_jax.methods import fitting as module
from metaheac_jax.methods.config import GradientConfig
from metaheac_jax.methods.method import GradientMethod
from metaheac_jax.methods.solved_head import compiled_solver
from metaheac_jax.networks import MLP
from metaheac_jax.table.layout import Layout
from metaheac_jax.training.sharding import device_mesh

DATA = dataset(users=100, campaigns=6, per_campaign=40, pool=40)


@dataclass(frozen=True)
class NotingConfig(GradientConfig):
    """Settings of offline and online stages that nothing uses."""

    online_learning_rate: float = 0.1


def noting(seen=(), *, base=Method, **settings):
    """A method that learns nothing and notes what its stages are given."""

    class Noting(base):
        name, label, default = "noting", "Noting", NotingConfig(**settings)

        def train(self, offline):
            seen.append(offline)
            optimizer = {"count": np.array(7)} if base is GradientMethod else None
            return Trained({"weights": np.full(3, float(offline.seed))}, optimizer=optimizer)

        def adapt(self, online, state, campaigns):
            seen.append((online, state, campaigns))
            return [lambda users: np.zeros(len(users)) for _ in campaigns]

    seen = seen if isinstance(seen, list) else []
    return register(Noting)()


def test_the_stage_is_given_what_was_asked_for(tmp_path):
    seen = []
    method = noting(seen)
    given = {"directory": tmp_path / "own", "hooks": [print], "progress": print}
    mh.fit(DATA, method, campaigns=[4, 1], seed=7, **given)
    [run] = seen
    assert run.dataset is DATA
    assert run.campaigns.tolist() == [4, 1]
    assert (run.seed, run.directory, run.hooks, run.progress) == (7, *given.values())
    mh.fit(DATA, method)
    assert seen[1].campaigns.tolist() == [*range(6)]


def test_campaigns_are_customised_in_the_order_given():
    seen = []
    general = mh.fit(DATA, noting(seen))
    chosen = [DATA.campaign(3), DATA.new_campaign([3, 10], {"advertiser": 1, "category": 2})]
    models = mh.customise(general, DATA, chosen, seed=5, progress=print)
    assert [model.campaign for model in models] == chosen
    assert all(model.general is general for model in models)
    run, state, campaigns = seen[1]
    assert (run.dataset, run.seed, run.progress) == (DATA, 5, print)
    assert campaigns == chosen
    assert state["weights"].tolist() == [0, 0, 0]
    assert models[1].score(DATA.user_rows[:3]).tolist() == [0, 0, 0]


# What is refused --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def general():
    return mh.fit(DATA, noting())


def test_the_processes_of_a_job_compare_what_decides_the_result(monkeypatch):
    """A command is typed on every machine; with another option it would hang, or mix results."""
    method, mesh = tiny("mlp-pretraining", offline_patience=None), device_mesh()
    told = {}
    monkeypatch.setattr("metaheac_jax.methods.fitting.check_same", told.__setitem__)

    def work(method=method, **options):
        told.clear()
        mh.fit(DATA, method, mesh=mesh, **{"seed": 0, "campaigns": [0, 1, 2], **options})
        return dict(told)

    usual = work()
    assert work() == usual
    for changed in (
        {"seed": 1},
        {"campaigns": [0, 1, 4]},
        {"method": method.changed(online_learning_rate=0.5)},
    ):
        found = work(**changed)
        assert [what for what in usual if found[what] != usual[what]] == [
            "data, model, settings, campaigns and seed"
        ]


def test_a_general_model_of_another_method_or_network_is_refused(general):
    with pytest.raises(InputError, match="trained by 'noting', not by 'metaheac'; use its own"):
        mh.customise(general, DATA, [DATA.campaign(0)], method=configured("metaheac"))
    with pytest.raises(InputError, match="was trained with width 16, the method has 4"):
        mh.customise(general, DATA, [DATA.campaign(0)], method=noting(width=4))


def test_fewer_campaigns_than_a_step_takes_are_refused():
    words = r"toy: 3 training campaigns besides 3 that are held out, but .+ needs 5; add "
    with pytest.raises(InputError, match=words + r"campaigns, hold none out \(.*\), or .* 'lr'"):
        mh.fit(DATA, noting(base=GradientMethod))


@pytest.mark.parametrize("name", ["metaheac", "lr"])
@pytest.mark.parametrize(("label", "seeds"), [(0, 0), (1, 40)])
def test_a_campaign_of_a_single_class_is_refused(name, label, seeds, monkeypatch):
    monkeypatch.setattr(type(DATA), "completed", lambda self, seed: self)
    labels = DATA.stage1.label.copy()
    labels[DATA.stage1.of(2)] = label
    data = replace(DATA, stage1=replace(DATA.stage1, label=labels))
    with pytest.raises(InputError, match=f"campaign 120: stage 1 has {seeds} seeds among 40"):
        mh.fit(data, configured(name, official=True))
    # It may be there, if no model is trained on it.
    mh.fit(data, "lr", campaigns=[0, 1, 3])


def test_what_a_stage_is_given_is_completed_with_the_seed(monkeypatch):
    """Random non-seeds of campaigns that have none; here, another data set tells."""
    other, seeds, seen = replace(DATA, name="completed"), [], []
    monkeypatch.setattr(type(DATA), "completed", lambda self, seed: seeds.append(seed) or other)
    mh.fit(DATA, noting(seen), seed=5)
    assert (seeds, seen[0].dataset) == ([5], other)


def test_scores_that_are_not_numbers_are_no_scores(general):
    [model] = mh.customise(general, DATA, [DATA.campaign(3)])
    broken = replace(model, scorer=lambda users: np.array([0.0, np.nan]))
    with pytest.raises(Diverged, match="campaign 130: a score of noting is not a number"):
        broken.score(DATA.user_rows[:2])


def test_checkpoints_of_another_training_are_refused(tmp_path, monkeypatch):
    method, directory = noting(), tmp_path / "offline-0.001"
    fit = partial(mh.fit, DATA, directory=directory)
    fit(method, seed=1)
    fit(method, seed=1, directory=str(directory))
    fit(method.changed(offline_epochs=7), seed=1)
    fit(method, seed=2, directory=tmp_path / "offline-0.005")  # its name differs in the end
    for other, changes, what in (
        (method, {"seed": 2}, "seed"),
        (method, {"campaigns": [0, 1]}, "campaigns"),
        (method.changed(outer_learning_rate=0.5), {}, "settings"),
        (configured("lr"), {}, "method"),
    ):
        with pytest.raises(InputError, match=f"started with another {what}"):
            fit(other, **({"seed": 1} | changes))
    judging = noting(base=GradientMethod, campaigns_per_step=2)
    fit = partial(mh.fit, DATA, campaigns=range(4), directory=tmp_path / "judged")
    fit(judging, held_out=[4])
    with pytest.raises(InputError, match="started with another held_out"):
        fit(judging, held_out=[5])
    monkeypatch.setattr(module, "environment", lambda: {"jax": "another"})
    with pytest.raises(InputError, match="another"):
        fit(judging, held_out=[4])


@pytest.mark.parametrize("kind", ["file", "link", "number"])
def test_a_training_leaves_the_files_of_others_alone(tmp_path, kind):
    """The folder is refused before any step."""
    folder, precious = tmp_path / "c", tmp_path / "precious"
    (precious / "7").mkdir(parents=True)
    (precious / "7" / "thesis").write_text("ten years")
    if kind == "link":
        folder.symlink_to(precious)
    else:
        mh.fit(DATA, noting(), directory=folder)
        mine = folder / ("notes.txt" if kind == "file" else "7/thesis")
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("ten years")
    with pytest.raises(InputError, match=r"is listed in no intact run\.json"):
        mh.fit(DATA, noting(), directory=folder)
    assert (precious / "7" / "thesis").read_text() == "ten years"
    assert kind == "link" or mine.read_text() == "ten years"


def test_two_trainings_do_not_share_checkpoints(tmp_path, writers):
    with writers.of(tmp_path / "c"), pytest.raises(Busy, match="another process is writing it"):
        mh.fit(DATA, noting(), directory=tmp_path / "c")


def test_data_and_models_are_compared_by_identity(general):
    """Arrays have no single truth value."""
    for own in (DATA, DATA.stage1, DATA.campaign(3), general):
        assert own == own
        assert own != replace(own)
        hash(own)


def test_a_seed_that_is_no_whole_number_is_refused(general):
    for seed in (-1, 1.5, True):
        for use in (
            lambda seed: mh.fit(DATA, noting(), seed=seed),
            lambda seed: mh.customise(general, DATA, [DATA.campaign(0)], seed=seed),
        ):
            with pytest.raises(InputError, match="seed: expected a whole number of 0 or more"):
                use(seed)


def test_a_method_without_steps_takes_no_mesh_and_no_start(general):
    with pytest.raises(InputError, match="noting: cannot use a mesh of devices; choose"):
        mh.fit(DATA, noting(), mesh=device_mesh())
    with pytest.raises(InputError, match="noting cannot continue from a model"):
        mh.fit(DATA, noting(), start=general)


def test_a_start_without_the_state_of_its_optimiser_is_refused():
    method = noting(base=GradientMethod, offline_patience=None)
    start = replace(mh.fit(DATA, method), optimizer=None)
    with pytest.raises(InputError, match="model of 'toy' has no optimiser state; in Python load"):
        mh.fit(DATA, method, start=start)


@pytest.mark.parametrize(
    "build",
    [
        lambda layout: network_function(MLP(), layout),
        lambda layout: pretraining._compiled_customiser(MLP(), layout, 8),
        compiled_solver,
    ],
)
def test_programs_are_kept_for_the_latest_layouts_only(build):
    """A service whose layout changes every day would else need more and more memory."""
    layouts = [Layout((1,), (), number) for number in range(PROGRAMS_KEPT + 1)]
    first, second, *_ = [weakref.ref(build(layout)) for layout in layouts]
    gc.collect()
    assert first() is None
    assert second() is build(layouts[1])
