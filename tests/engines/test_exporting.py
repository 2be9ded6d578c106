"""An export: the same scores, whole files or a refusal, no trace of where it was made."""

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest
from commands import contents
from engine_world import CAMPAIGNS
from toy import tiny, with_shares

import metaheac_jax as mh
from metaheac_jax.engines.arrow import open_export
from metaheac_jax.engines.export_files import FORMAT, MANIFEST, read_export
from metaheac_jax.errors import InputError

LENGTHENED = "solved-head", "learned-prior", "ensemble", "lr"
SLOW = [pytest.param(own, marks=pytest.mark.slow) for own in ("metaheac", *LENGTHENED)]
FILES = ("scorer.stablehlo", "values.npz", "weights.npz", MANIFEST)


@pytest.mark.parametrize(
    "name", ["mlp-pretraining", *(pytest.param(own, marks=pytest.mark.slow) for own in SLOW)]
)
def test_scores_are_those_of_the_model(made, tmp_path, name):
    """Also in the place of another export, and for campaigns in another order."""
    method = tiny(name, online_learning_rate=0.05, list_lengths=name in LENGTHENED)
    general = with_shares(mh.fit(made.data, method))
    for numbers in ((2, 0, 1), (1,)):
        chosen = [made.data.campaign(number) for number in numbers]
        models = mh.customise(general, made.data, chosen)
        mh.export_scorer(models, tmp_path / "export")
        assert contents(tmp_path / "export") == set(FILES)
        scorer = open_export(tmp_path / "export")
        assert scorer.campaigns.to_pylist() == [CAMPAIGNS[number] for number in numbers]
        scores = scorer.score(made.data.user_rows)
        for number, model in enumerate(models):
            expected = model.score(made.data.user_rows)
            np.testing.assert_allclose(scores[:, number], expected, rtol=0, atol=1e-5)
        assert np.ptp(scores) > 0.1


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_damaged_file_is_refused_before_it_is_used(made, tmp_path, name, damage):
    export = shutil.copytree(made.export, tmp_path / "tea")
    content = bytearray((export / name).read_bytes())
    for place in np.linspace(0, len(content) - 1, 9).astype(int) if damage == "flip" else [0]:
        spoilt = bytearray(content)
        spoilt[place] ^= 2
        (export / name).write_bytes(spoilt if damage == "flip" else content[: len(content) // 2])
        if damage == "gone":
            (export / name).unlink()
        with pytest.raises(InputError, match=name) as refused:
            read_export(export)
        assert "export the campaign again" in str(refused.value)


def test_another_version_is_refused(made, tmp_path):
    export = shutil.copytree(made.export, tmp_path / "tea")
    manifest = (export / MANIFEST).read_text()
    (export / MANIFEST).write_text(manifest.replace(FORMAT, "metaheac_jax scorer 3"))
    with pytest.raises(InputError, match=r"format .*scorer 3.*, expected .*scorer 6.*export the"):
        open_export(export)


def test_no_path_stands_in_an_export(made):
    """jax notes the source file of each operation in a program."""
    for path in made.export.iterdir():
        content = path.read_bytes()
        for place in {*sys.path, str(Path(__file__).parents[2]), sys.prefix} - {"", "."}:
            assert place.encode() not in content, path
        assert not re.search(rb"\.py\b", content)


def test_two_exports_of_a_model_have_the_same_bytes(made, tmp_path):
    """Whoever calls, from wherever, and whatever was compiled before."""

    def from_elsewhere(folder):
        (lambda: mh.export_scorer(made.models, folder))()

    from_elsewhere(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (made.export / name).read_bytes(), name
    manifest = read_export(made.export).manifest
    assert manifest["readers"].startswith(f"jax {jax.__version__} and")


def test_what_cannot_be_exported(made, tmp_path):
    model = made.models[0]
    other = replace(model, scorer=lambda users: users)
    with pytest.raises(InputError, match="campaign 7: 'solved-head' has no network to export"):
        mh.export_scorer(other, tmp_path / "export")
    for several in (
        [model, model],
        [model, replace(made.models[1], general=replace(made.general))],
    ):
        with pytest.raises(InputError, match="one general model for different campaigns"):
            mh.export_scorer(several, tmp_path / "export")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("ten years")
    with pytest.raises(InputError, match=r"thesis\.tex: is listed in no intact scorer\.json"):
        mh.export_scorer(model, tmp_path / "mine")
    assert contents(tmp_path) == {"mine"}


def test_an_export_of_all_campaigns_that_a_model_learned_from_has_no_history_to_read(
    made, historic, tmp_path
):
    """Whatever is in the column, since an audience is not told what its campaign knows."""
    general, read = historic.models[0].general, historic.read
    models = mh.customise(general, read, [read.campaign(0), read.campaign(1)])
    mh.export_scorer(models, tmp_path / "export")
    scorer = open_export(tmp_path / "export")
    assert scorer.tokens == []
    users = made.users.head(50)
    some = users.with_columns(metaheac_history=pl.lit(["1:7", "0:12"]))
    none = users.with_columns(metaheac_history=pl.lit(None, pl.List(pl.String)))
    np.testing.assert_array_equal(scorer(some.to_arrow()), scorer(none.to_arrow()))
    with pytest.raises(InputError, match="no column 'metaheac_history'"):
        scorer(users.to_arrow())
