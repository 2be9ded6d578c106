"""What `metaheac expand` says of seeds, attributes and sizes that it cannot work with."""

import csv
import hashlib
import json
import re
import stat
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from commands import contents, exit_code, full_disk, refuses, succeeds
from toy import dataset

from metaheac_jax.audience.retrieve import expand
from metaheac_jax.audience.workspace import find_items
from metaheac_jax.cli.campaigns import read_audience
from metaheac_jax.cli.main import main
from metaheac_jax.data.storage import open_dataset, write_dataset
from metaheac_jax.files import writer_of
from metaheac_jax.methods import Method, method_named
from metaheac_jax.model import save
from metaheac_jax.settings import PAPER

TINY = replace(PAPER, width=2, num_experts=2, num_critics=2, batch_size=16, campaigns_per_step=2)
TINY = replace(TINY, offline_epochs=0, online_epochs=1, online_patience=None)
DATA = dataset(users=200, campaigns=4, per_campaign=40, pool=40)
SEEDS, ATTRIBUTES = DATA.user_ids[:120], {"advertiser": 2, "category": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    write_dataset(DATA, folder / "data")
    save(method_named("cosine").fit(DATA, campaigns=[0, 1, 2]), folder / "model")
    return SimpleNamespace(data=folder / "data", model=folder / "model")


@pytest.fixture
def options(made, tmp_path, monkeypatch):
    """Options that suit each other, by name; the files are in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seeds").write_text("\n".join(map(str, SEEDS)))
    (tmp_path / "attributes").write_text(json.dumps(ATTRIBUTES))
    names = {"--data": made.data, "--seeds": "seeds", "--attributes": "attributes"}
    return {"": made.model, **names, "--out": "audience.csv", "--size": 5}


def words_of(options):
    """Options as words; a value of several words, or of none for a flag."""
    words = []
    for name, value in options.items():
        if value is not None:
            values = value if isinstance(value, list | tuple) else [value]
            words += [word for word in (name, *values) if word != ""]
    return list(map(str, words))


def rows_of(path):
    """The lines of an audience's file, as dictionaries."""
    return list(csv.DictReader(path.read_text().splitlines()))


def test_the_options_suit_each_other(options, tmp_path):
    assert exit_code(main, "expand", *words_of(options)) in (None, 0)
    assert len((tmp_path / "audience.csv").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"--percent": 5},
            "expand: give one of --size, --percent, and --from-percent with --to-per",
        ),
        (
            {"--size": None},
            "expand: give one of --size, --percent, and --from-percent with --to-per",
        ),
        ({"--size": None, "--from-percent": 3, "--to-percent": 2}, "from_percent and to_percent: "),
        ({"--size": None, "--from-percent": 1, "--to-percent": 1.2}, "holds none of 200 users"),
        (
            {"--size": None, "--from-percent": 40, "--to-percent": 45},  # 80 of 200 are no seeds
            "only 80 candidates, and the first rank requested is 81; choose a better rank",
        ),
        ({"--size": 0}, "size: expected a whole number of 1 or more, got 0"),
        ({"--size": None, "--percent": 101}, "percent: expected more than 0 and at most 100"),
        ({"--seeds": "none"}, "none: No such file"),
        ({"--attributes": "none"}, "none: No such file"),
        ({"--exclude": "none"}, "none: No such file"),
        ({"--seeds": "attributes"}, "attributes:1: expected one user id, got"),
        ({"--exclude": "attributes"}, "attributes:1: expected one user id, got"),
        ({"--attributes": "seeds"}, "seeds: not valid JSON"),
        ({"": "tee"}, "tee: no such folder; give a model from metaheac fit, or a campaign from"),
        ({"--seeds": None}, "expand: give --seeds and --attributes, or --campaigns"),
        ({"--attributes": None}, "expand: give --seeds and --attributes, or --campaigns"),
        ({"--campaigns": "seeds"}, "expand: give --seeds and --attributes, or --campaigns"),
        ({"--format": "csv"}, "--format: only with --campaigns"),
        ({"--out": "audience"}, "audience: expected a name that ends with .parquet or .csv or"),
        ({"--previous": "none.csv"}, "none.csv: no such file; give an audience"),
        ({"--previous": "seeds"}, "seeds: not the file of an audience"),
        ({"--seeds": "seeds.csv", "--out": "./seeds.csv"}, "--out: seeds.csv would replace a file"),
        ({"--exclude": "seeds.csv", "--out": "seeds.csv"}, "--out: seeds.csv would replace a file"),
        ({"--base-rate": 0.1}, "--base-rate: only with --probability"),
        ({"--skip-unusable": ""}, "--skip-unusable: only with --campaigns"),
        ({"--probability": "", "--base-rate": 1}, "base rate: expected more than 0 and less than"),
        ({"--adapts": "heads"}, "cosine: cannot adapt heads only; choose a method such as "),
        ({"--mesh": "campaign=8"}, "takes 8 devices, and jax has 1"),
        ({"--mesh": "campaign=1"}, "cosine: cannot use a mesh of devices"),
        ({"--process": "0/2"}, "--process: only with --coordinator"),
        ({"--least-seeds": 121}, "seeds: 120 of 120 seeds are users of the data, fewer than "),
    ],
)
def test_options_that_make_no_sense(options, tmp_path, capsys, changed, words):
    before = contents(tmp_path)
    refuses(capsys, main, "expand", *words_of({**options, **changed}), words=(words,))
    assert contents(tmp_path) == before


def test_too_few_seeds_to_calibrate_on(options, tmp_path, capsys):
    (tmp_path / "seeds").write_text("\n".join(map(str, SEEDS[:49])))
    options = {**options, "--probability": "", "--least-seeds": 1}
    words = ("new campaign: 49 seeds, too few to calibrate probabilities on a fifth of them",)
    refuses(capsys, main, "expand", *words_of(options), words=words)


def test_a_file_of_somebody_else_beside_an_audience_is_not_replaced(options, tmp_path, capsys):
    mine = tmp_path / "mine.csv.json"
    mine.write_text('{"source": "a survey"}')
    given = words_of({**options, "--out": tmp_path / "mine.csv"})
    words = (f"--out: {mine} would be replaced, and is not of an audience; move it away, or",)
    refuses(capsys, main, "expand", *given, words=words)
    assert mine.read_text() == '{"source": "a survey"}'
    assert not (tmp_path / "mine.csv").exists()


def test_a_full_disk_leaves_the_older_audience_with_its_manifest(options, tmp_path, monkeypatch):
    succeeds(main, "expand", *words_of(options))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for place in ("audience.audience.Audience.write_part", "cli.expanded.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(f"metaheac_jax.{place}", full_disk)
            assert exit_code(main, "expand", *words_of({**options, "--size": 7})) == 2
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    options, tmp_path, capsys, monkeypatch, writers
):
    monkeypatch.setattr(Method, "customise", None)
    out = tmp_path / "audience.csv"
    with writers.of(out) as process:
        words = (f"{out}: process {process} on ", " is writing it; wait for it")
        refuses(capsys, main, "expand", *words_of(options), words=words, code=75)
    words = ("/proc/audience.csv: cannot be written (",)
    refuses(
        capsys, main, "expand", *words_of({**options, "--out": "/proc/audience.csv"}), words=words
    )


def test_only_the_first_process_locks_the_outputs(options, tmp_path, monkeypatch, writers):
    """Another process of the same command has the locks."""
    monkeypatch.setattr("metaheac_jax.cli.expand.is_first", lambda: False)
    monkeypatch.setattr("metaheac_jax.cli.expand.from_first", lambda value: value)
    with writers.of(tmp_path / "audience.csv"), writers.of(tmp_path / "report.html"):
        report = {"--report": tmp_path / "report.html"}
        succeeds(main, "expand", *words_of({**options, **report}))
    assert not (tmp_path / "audience.csv").exists()


def test_an_audience_is_locked_from_the_beginning(options, tmp_path, monkeypatch):
    seen, customise = [], Method.customise
    monkeypatch.setattr(
        Method,
        "customise",
        lambda *args, **more: (
            seen.append(writer_of(tmp_path / "audience.csv")) or customise(*args, **more)
        ),
    )
    succeeds(main, "expand", *words_of(options))
    assert seen[0] is not None


def test_an_audience_never_lies_beside_the_manifest_of_another(options, tmp_path, monkeypatch):
    """As after a kill between the two, or on a disk that is full: status reports no damage."""
    succeeds(main, "expand", *words_of(options))
    with monkeypatch.context() as patch:
        patch.setattr("metaheac_jax.cli.expanded.seal", full_disk)
        assert exit_code(main, "expand", *words_of({**options, "--size": 7})) == 2
    [audience] = [item for item in find_items(tmp_path) if item.kind == "audience"]
    assert (audience.about, audience.trouble) == ("7 users", "")
    succeeds(main, "expand", *words_of(options))
    assert (tmp_path / "audience.csv.json").exists()


def test_ranks_without_candidates_are_refused_before_the_work(
    options, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(Method, "customise", None)
    (tmp_path / "out").write_text("\n".join(map(str, DATA.user_ids[100:150])))
    band = {"--size": None, "--from-percent": 75, "--to-percent": 80, "--exclude": "out"}
    for more, candidates in (({}, 50), ({"--include-seeds": ""}, 150)):
        words = (f"only {candidates} candidates, and the first rank requested is 151; choose a",)
        refuses(capsys, main, "expand", *words_of({**options, **band, **more}), words=words)


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        ([1, 2], "seeds: new campaign: none of the 2 seeds is a user of "),
        ([*SEEDS[:99], 1, 2], "seeds: 99 of 101 seeds are users of the data, fewer than --least-"),
        ([*SEEDS[:99], SEEDS[0]], "seeds: 99 of 99 seeds are users of the data, fewer than"),
        (DATA.user_ids, "all 200 users are seeds"),
    ],
)
def test_seeds_that_are_too_few_or_too_many(options, tmp_path, capsys, seeds, words):
    (tmp_path / "seeds").write_text("\n".join(map(str, seeds)))
    refuses(capsys, main, "expand", *words_of(options), words=(words,))
    assert contents(tmp_path) == {"seeds", "attributes"}


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"advertiser": 2}, "campaign attributes: has no 'category'"),
        ({**ATTRIBUTES, "price": 3}, "campaign attributes: has an unknown 'price'"),
        ({**ATTRIBUTES, "category": "food"}, "campaign attributes: category is 'food', expected"),
    ],
)
def test_attributes_of_other_fields(options, tmp_path, capsys, attributes, words):
    (tmp_path / "attributes").write_text(json.dumps(attributes))
    refuses(capsys, main, "expand", *words_of(options), words=(words,))
    assert contents(tmp_path) == {"seeds", "attributes"}


def test_excluded_users_are_neither_learned_from_nor_in_the_audience(options, tmp_path, capsys):
    (tmp_path / "out1").write_text("\n".join(map(str, [*SEEDS[:15], 10**9])))
    (tmp_path / "out2").write_text("\n".join(map(str, DATA.user_ids[150:160])))
    options = {**options, "--size": 200, "--exclude": ["out1", "out2"], "--include-seeds": ""}
    succeeds(main, "expand", *words_of(options))
    excluded = {*SEEDS[:15].tolist(), *DATA.user_ids[150:160].tolist()}
    audience = {int(row["user_id"]) for row in rows_of(tmp_path / "audience.csv")}
    assert audience == set(DATA.user_ids.tolist()) - excluded
    printed = capsys.readouterr().out
    assert "120 distinct, 120 of them users of the data (100%), 15 of these excluded\n" in printed
    # The model is that of the other seeds.
    method = method_named("cosine")
    campaign = DATA.new_campaign(SEEDS[15:], ATTRIBUTES, exclude=sorted(excluded))
    [model] = method.customise(method.fit(DATA, campaigns=[0, 1, 2]), DATA, [campaign])
    own = expand(model, DATA, size=200, exclude=sorted(excluded), include_seeds=True)
    assert [float(row["score"]) for row in rows_of(tmp_path / "audience.csv")] == pytest.approx(
        own.scores.tolist(), rel=1e-7
    )
    least = {**options, "--least-seeds": 106, "--out": "other.csv"}
    words = (
        "seeds: 105 of 120 seeds are users of the data (15 more are excluded), fewer than --l",
    )
    refuses(capsys, main, "expand", *words_of(least), words=words)


def test_suppressed_users_are_left_out_of_the_audience_alone(options, tmp_path, capsys):
    """Seeds and non-seeds among them are learned from: the scores are those without the option."""
    options = {**options, "--size": 200, "--include-seeds": ""}
    succeeds(main, "expand", *words_of(options))
    everyone = rows_of(tmp_path / "audience.csv")
    left = {*SEEDS[:15].tolist(), *DATA.user_ids[150:160].tolist()}
    (tmp_path / "bought").write_text("\n".join(map(str, [*left, 10**9])))
    capsys.readouterr()
    succeeds(main, "expand", *words_of({**options, "--suppress": "bought"}))
    printed = capsys.readouterr().out
    assert "120 of them users of the data (100%)\n" in printed
    assert "note: bought: 25 of 26 ids to leave out are users of the data" in printed
    kept = [row["user_id"] for row in everyone if int(row["user_id"]) not in left]
    assert [row["user_id"] for row in rows_of(tmp_path / "audience.csv")] == kept
    scores = {row["user_id"]: row["score"] for row in everyone}
    assert all(row["score"] == scores[row["user_id"]] for row in rows_of(tmp_path / "audience.csv"))
    refused = {**options, "--suppress": "audience.csv"}
    words = ("--out: audience.csv would replace a file",)
    refuses(capsys, main, "expand", *words_of(refused), words=words)


def test_only_the_listed_users_may_be_in_an_audience(options, tmp_path, capsys):
    """As if all others were suppressed; seeds outside the list are learned from."""
    options = {**options, "--size": 200}
    succeeds(main, "expand", *words_of(options))
    everyone = rows_of(tmp_path / "audience.csv")
    wanted = {*SEEDS[:30].tolist(), *DATA.user_ids[150:170].tolist()}
    (tmp_path / "consent").write_text("\n".join(map(str, [*sorted(wanted)[:25], 10**9])))
    (tmp_path / "more").write_text("\n".join(map(str, sorted(wanted)[25:])))
    (tmp_path / "bought").write_text(f"{DATA.user_ids[150]}\n")
    capsys.readouterr()
    more = {"--only": ["consent", "more"], "--suppress": "bought"}
    succeeds(main, "expand", *words_of({**options, **more}))
    printed = capsys.readouterr().out
    assert "note: consent: 25 of 26 ids to choose from are users of the data" in printed
    assert "audience.csv: 19 users of 19 candidates" in printed
    kept = [row for row in everyone if int(row["user_id"]) in wanted - {int(DATA.user_ids[150])}]
    found = rows_of(tmp_path / "audience.csv")
    assert [(row["user_id"], row["score"]) for row in found] == [
        (row["user_id"], row["score"]) for row in kept
    ]
    record = json.loads((tmp_path / "audience.csv.json").read_text())
    files = [own["file"] for own in record["inputs"] if own["option"] == "only"]
    assert files == ["consent", "more"]
    (tmp_path / "nobody").write_text("1000000000\n")
    words = ("--only: no user of ", " is in nobody; check that the ids are those of the prep")
    refuses(capsys, main, "expand", *words_of({**options, "--only": "nobody"}), words=words)
    refused = {**options, "--only": "audience.csv"}
    words = ("--out: audience.csv would replace a file",)
    refuses(capsys, main, "expand", *words_of(refused), words=words)


def test_the_record_of_an_audience_names_options_and_files_with_their_checksums(options, tmp_path):
    (tmp_path / "optouts").write_text(f"{SEEDS[0]}\n")
    given = {"--exclude": "optouts", "--suppress": ["optouts"], "--seed": 3, "--least-seeds": 7}
    succeeds(main, "expand", *words_of({**options, **given}))
    record = json.loads((tmp_path / "audience.csv.json").read_text())
    wanted = {"size": 5, "percent": None, "seed": 3, "least_seeds": 7, "include_seeds": False}
    assert wanted.items() <= record["options"].items()
    digest = {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("seeds", "attributes", "optouts")
    }
    files = [(own["option"], own["file"]) for own in record["inputs"]]
    assert files == [
        ("attributes", "attributes"),
        ("seeds", "seeds"),
        ("exclude", "optouts"),
        ("suppress", "optouts"),
    ]
    assert all(own["sha256"] == digest[own["file"]] for own in record["inputs"])
    assert {*record["versions"]} == {"metaheac_jax", "jax"}
    (tmp_path / "audience.csv.json").chmod(0o600)
    again = {**options, "--previous": "audience.csv", "--size": 4}
    succeeds(main, "expand", *words_of(again))
    record = json.loads((tmp_path / "audience.csv.json").read_text())
    assert record["inputs"][-1]["option"] == "previous"
    assert stat.S_IMODE((tmp_path / "audience.csv.json").stat().st_mode) == 0o600


def test_users_who_share_the_last_score_with_others_are_noted(options, tmp_path, capsys):
    """Every second user has the same rows, and so the same score, as the one before."""
    data = replace(DATA, user_rows=np.repeat(DATA.user_rows[::2], 2, axis=0))
    write_dataset(data, tmp_path / "pairs")
    save(method_named("cosine").fit(data, campaigns=[0, 1, 2]), tmp_path / "model")
    given = {**options, "": tmp_path / "model", "--data": tmp_path / "pairs", "--include-seeds": ""}
    succeeds(main, "expand", *words_of({**given, "--size": 200}))
    assert "have the last score" not in capsys.readouterr().out
    scores = [row["score"] for row in rows_of(tmp_path / "audience.csv")]
    size = next(n for n in range(5, 200) if scores[n] == scores[n - 1])
    succeeds(main, "expand", *words_of({**given, "--size": size}))
    tied = scores[:size].count(scores[size])
    assert f"note: {tied} users of the audience have the last score" in capsys.readouterr().out


@pytest.mark.parametrize("column", ["converted", "Label"])
def test_a_file_that_says_who_has_responded_is_no_file_of_seeds(options, tmp_path, capsys, column):
    """Of a feedback log or of examples, those who have not responded would become seeds."""
    rows = [f"{user},{n % 2}" for n, user in enumerate(SEEDS)]
    (tmp_path / "shown.csv").write_text("\n".join([f"user_id,{column}", *rows]))
    frame = pl.DataFrame({"user_id": SEEDS, column: np.arange(120) % 2})
    frame.write_parquet(tmp_path / "shown.parquet")
    for name in ("shown.csv", "shown.parquet"):
        words = (f"{name}: has a column {column}, so perhaps not all of its users have responded",)
        refuses(capsys, main, "expand", *words_of({**options, "--seeds": name}), words=words)
    line = {"name": "tea", "seeds": "shown.csv", "attributes": ATTRIBUTES}
    (tmp_path / "list").write_text(json.dumps(line))
    given = {**options, "--seeds": None, "--attributes": None, "--campaigns": "list", "--out": "d"}
    refuses(capsys, main, "expand", *words_of(given), words=("shown.csv: has a column",))
    (tmp_path / "others.csv").write_text(f"user_id,{column}\n{DATA.user_ids[150]},0\n")
    succeeds(main, "expand", *words_of({**options, "--exclude": "others.csv"}))


def test_bands_follow_each_other(options, tmp_path, capsys):
    options = {**options, "--size": None, "--include-seeds": ""}
    whole, first, second = (tmp_path / f"{name}.csv" for name in ("whole", "first", "second"))
    succeeds(main, "expand", *words_of({**options, "--percent": 5, "--out": whole}))
    for out, low, high in ((first, 0, 2), (second, 2, 5)):
        band = {"--from-percent": low, "--to-percent": high, "--out": out}
        succeeds(main, "expand", *words_of({**options, **band}))
    assert rows_of(whole) == rows_of(first) + rows_of(second)
    assert [row["rank"] for row in rows_of(second)] == ["5", "6", "7", "8", "9", "10"]
    assert "ranks 5 and below, 6 users of 200 candidates\n" in capsys.readouterr().out


def test_what_limits_an_audience_is_noted(options, tmp_path, capsys):
    """Larger than the pool; of seeds that are nearly all; of a campaign that was trained on."""
    (tmp_path / "seeds").write_text("\n".join(map(str, DATA.user_ids[:190])))
    succeeds(main, "expand", *words_of({**options, "--size": 11}))
    printed = capsys.readouterr().out
    assert "note: 11 users were requested, but there are only 10 candidates\n" in printed
    assert "note: there are only 10 other users to tell 190 seeds from; use a larger" in printed
    assert "audience.csv: 10 users of 10 candidates\n" in printed
    assert "the general model was trained on" not in printed
    band = {"--size": None, "--from-percent": 4, "--to-percent": 50}
    succeeds(main, "expand", *words_of({**options, **band}))
    printed = capsys.readouterr().out
    assert "note: ranks up to 100 were requested, but there are only 10 candidates\n" in printed
    assert "audience.csv: ranks 9 and below, 2 users of 10 candidates\n" in printed

    own = DATA.campaign(1)
    values = (
        field[row - first]
        for field, row, first in zip(
            DATA.vocabulary.values[3:], own.rows, DATA.vocabulary.offsets[3:], strict=True
        )
    )
    attributes = dict(zip(("advertiser", "category"), map(int, values), strict=True))
    (tmp_path / "attributes").write_text(json.dumps(attributes))
    seeds = [*DATA.user_ids[own.seeds], *np.setdiff1d(DATA.user_ids, DATA.user_ids[own.users])]
    (tmp_path / "seeds").write_text("\n".join(map(str, seeds[:60])))
    more = {"--probability": "", "--least-seeds": 50, "--size": 10}
    succeeds(main, "expand", *words_of({**options, **more}))
    printed = capsys.readouterr().out
    assert "there are only" not in printed
    note = f"which has the same attributes and {len(own.seeds)} of these seeds"
    assert f"note: the general model has seen campaign {own.id}, {note}; its " in printed
    record = json.loads((tmp_path / "audience.csv.json").read_text())
    assert any(note in entry for entry in record["notes"])


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_earlier_audience_is_compared_with(options, tmp_path, capsys, ending):
    earlier = tmp_path / f"earlier.{ending}"
    succeeds(main, "expand", *words_of({**options, "--size": 20, "--out": earlier}))
    best = read_audience(earlier)[:4]
    (tmp_path / "out").write_text("\n".join(map(str, best)))
    capsys.readouterr()
    options = {**options, "--previous": earlier, "--exclude": "out", "--size": 30}
    succeeds(main, "expand", *words_of(options))
    kept, new, gone = 16, 14, 4
    line = f"{earlier}: {kept} users kept, {new} new, {gone} gone\n"
    assert line in capsys.readouterr().out
    now = set(read_audience(tmp_path / "audience.csv").tolist())
    assert len(now & set(read_audience(earlier).tolist())) == kept


def test_probabilities_are_of_the_base_rate(options, tmp_path, capsys):
    options = {**options, "--size": 200, "--include-seeds": ""}
    succeeds(main, "expand", *words_of(options))
    plain = rows_of(tmp_path / "audience.csv")
    assert list(plain[0]) == ["rank", "user_id", "score"]
    found = {}
    for rate in (None, 0.01):
        capsys.readouterr()
        succeeds(main, "expand", *words_of({**options, "--probability": "", "--base-rate": rate}))
        rows = rows_of(tmp_path / "audience.csv")
        assert [{k: row[k] for k in plain[0]} for row in rows] == plain
        found[rate] = np.array([float(row["probability"]) for row in rows])
        assert (np.diff(found[rate]) <= 0).all()
        shown = {None: "60.000%", 0.01: "1.000%"}[rate]
        assert f"probability: of converting, if {shown} of the users who" in capsys.readouterr().out
    assert found[0.01].min() > 0
    assert (10 * found[0.01] < found[None]).all()
    assert found[None].max() < 1


# Many campaigns ---------------------------------------------------------------------------------


@pytest.fixture
def many(options, tmp_path):
    """Two campaigns, whose seeds are in a folder beside their list."""
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "tea.csv").write_text("\n".join(map(str, SEEDS)))
    (tmp_path / "list" / "golf.csv").write_text("\n".join(map(str, [*DATA.user_ids[50:160], 4])))
    entries = [
        {"name": "tea", "seeds": "tea.csv", "attributes": ATTRIBUTES},
        {"name": "golf club", "seeds": "golf.csv", "attributes": {"advertiser": 99, "category": 0}},
    ]
    (tmp_path / "list" / "campaigns").write_text("\n".join(map(json.dumps, entries)))
    names = {"--seeds": None, "--attributes": None, "--campaigns": "list/campaigns"}
    return {**options, **names, "--out": "audiences"}


def test_many_campaigns_are_those_expanded_one_by_one(options, many, tmp_path, capsys):
    (tmp_path / "out").write_text("\n".join(map(str, DATA.user_ids[55:60])))
    more = {"--exclude": "out", "--probability": "", "--seed": 3}
    succeeds(main, "expand", *words_of({**many, **more}))
    printed = capsys.readouterr().out
    assert "audiences: 2 audiences; audiences.json has the details\n" in printed
    assert contents(tmp_path / "audiences") == {"tea.csv", "golf club.csv", "audiences.json"}
    (tmp_path / "attributes").write_text(json.dumps({"advertiser": 99, "category": 0}))
    for name, seeds in (("tea", "tea.csv"), ("golf club", "golf.csv")):
        values = ATTRIBUTES if name == "tea" else {"advertiser": 99, "category": 0}
        (tmp_path / "attributes").write_text(json.dumps(values))
        alone = {**options, **more, "--seeds": f"list/{seeds}", "--out": "alone.csv"}
        succeeds(main, "expand", *words_of(alone))
        assert (tmp_path / "alone.csv").read_text() == (
            tmp_path / "audiences" / f"{name}.csv"
        ).read_text()
    found = json.loads((tmp_path / "audiences" / "audiences.json").read_text())["campaigns"]
    assert [entry["file"] for entry in found] == ["tea.csv", "golf club.csv"]
    golf = found[1]
    check = {"given": 111, "distinct": 111, "found": 110, "excluded": 5, "from_feedback": 0}
    assert golf["seeds"] == check
    assert (golf["users"], golf["first_rank"], golf["candidates"]) == (5, 1, 200 - 110)
    assert golf["unknown_attributes"] == ["advertiser"]
    assert golf["base_rate"] == 105 / 200
    assert golf["refresh"] is None


def with_own(many, tmp_path, *, tea, golf):
    """Gives the two campaigns of the list some values of their own."""
    path = tmp_path / "list" / "campaigns"
    entries = map(json.loads, path.read_text().splitlines())
    entries = [{**entry, **own} for entry, own in zip(entries, (tea, golf), strict=True)]
    path.write_text("\n".join(map(json.dumps, entries)))


def test_campaigns_have_their_own_sizes_base_rates_and_suppressed_users(many, tmp_path, capsys):
    own = {"--probability": "", "--base-rate": 0.1}
    succeeds(main, "expand", *words_of({**many, **own, "--size": 40}))
    tea, golf = (rows_of(tmp_path / "audiences" / f"{name}.csv") for name in ("tea", "golf club"))
    buyers = [row["user_id"] for row in golf[:3]]
    (tmp_path / "list" / "buyers.csv").write_text("\n".join(["user_id", *buyers, "777777"]))
    changes = {"percent": 10, "base_rate": 0.02, "suppress": "buyers.csv"}
    with_own(many, tmp_path, tea={"size": 7}, golf=changes)
    succeeds(main, "expand", *words_of({**many, **own, "--size": None}))
    tea_now, golf_now = (
        rows_of(tmp_path / "audiences" / f"{name}.csv") for name in ("tea", "golf club")
    )
    assert tea_now == tea[:7]
    ids = [row["user_id"] for row in golf[3:23]]  # 10% of 200 users
    assert [row["user_id"] for row in golf_now] == ids
    assert [row["score"] for row in golf_now] == [row["score"] for row in golf[3:23]]
    lower = [float(row["probability"]) for row in golf_now]
    assert all(a < float(b["probability"]) for a, b in zip(lower, golf[3:23], strict=True))
    record = json.loads((tmp_path / "audiences" / "audiences.json").read_text())
    found = record["campaigns"]
    assert [entry["base_rate"] for entry in found] == [0.1, 0.02]
    assert [entry["users"] for entry in found] == [7, 20]
    assert [entry["candidates"] for entry in found] == [200 - 120, 200 - 110 - 3]
    [note] = [note for note in found[1]["notes"] if "buyers" in note]
    assert note == "list/buyers.csv: 3 of 4 ids to leave out are users of the data"
    files = [entry["file"] for entry in record["inputs"] if entry["option"] == "suppress"]
    assert files == ["list/buyers.csv"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"size": 0}, "campaign golf club: size: expected a whole number of 1 or more, got 0"),
        ({"size": True}, "campaign golf club: size: expected a whole number"),
        ({"percent": 101}, "campaign golf club: percent: expected more than 0 and at most 100"),
        ({"size": 3, "percent": 2}, "campaign golf club: has both size and percent; give one of"),
        ({"base_rate": "1%"}, "campaign golf club: base rate: expected more than 0 and less t"),
        ({"base_rate": 0.1}, "campaign golf club: base_rate: only with --probability"),
        ({"suppress": 5}, "campaign golf club: suppress: expected the name of a file, got 5"),
        ({"suppress": "none.csv"}, "campaign golf club: list/none.csv: No such file"),
        (
            {"edge": 5},
            "'edge'; expected name, seeds and attributes, or name and folder; previous,",
        ),
        ({}, "list/campaigns: campaign golf club: has no size or percent; give it one, or give"),
    ],
)
def test_own_values_that_make_no_sense(many, tmp_path, capsys, changed, words):
    with_own(many, tmp_path, tea={"size": 7}, golf=changed)
    before, options = contents(tmp_path), many if changed else {**many, "--size": None}
    refuses(capsys, main, "expand", *words_of(options), words=(words,))
    assert contents(tmp_path) == before


def test_customised_campaigns_are_kept_until_the_audiences_are_written(many, tmp_path, monkeypatch):
    customise, kept = Method.customise, []

    def keep(self, *inputs, directory, **options):
        kept.append(directory)
        directory.mkdir()
        return customise(self, *inputs, directory=directory, **options)

    monkeypatch.setattr(Method, "customise", keep)
    succeeds(main, "expand", *words_of(many))
    assert [path.name for path in kept] == ["audiences.customised"]
    assert contents(tmp_path) == {"list", "seeds", "attributes", "audiences"}


def test_a_data_set_in_the_place_of_customised_campaigns_stays(many, tmp_path, capsys):
    write_dataset(DATA, tmp_path / "audiences.customised")
    words = ("--out: audiences.customised/", "is not of the work on audiences, which is kept in")
    refuses(capsys, main, "expand", *words_of(many), words=words)
    assert contents(tmp_path) == {"list", "seeds", "attributes", "audiences.customised"}
    assert open_dataset(tmp_path / "audiences.customised").num_users == DATA.num_users


def test_a_campaign_with_a_name_in_brackets_is_shown(many, tmp_path, capsys):
    path = tmp_path / "list" / "campaigns"
    path.write_text(path.read_text().replace("golf club", "[golf]"))
    succeeds(main, "expand", *words_of(many))
    assert " [golf] " in capsys.readouterr().out
    assert contents(tmp_path / "audiences") == {"tea.csv", "[golf].csv", "audiences.json"}


def test_the_audiences_of_yesterday_are_replaced_and_compared_with(many, tmp_path):
    out = tmp_path / "audiences"
    succeeds(main, "expand", *words_of({**many, "--format": "parquet"}))
    assert contents(out) == {"tea.parquet", "golf club.parquet", "audiences.json"}
    path = tmp_path / "list" / "campaigns"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    entries[0]["previous"] = "../audiences/tea.parquet"
    path.write_text(json.dumps(entries))  # a list will do as well
    succeeds(main, "expand", *words_of({**many, "--size": 8, "--format": "csv.gz"}))
    assert contents(out) == {"tea.csv.gz", "golf club.csv.gz", "audiences.json"}
    found = json.loads((out / "audiences.json").read_text())["campaigns"]
    assert [entry["refresh"] for entry in found] == [{"kept": 5, "new": 3, "gone": 0}, None]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seeds": "none.csv"}, "list/none.csv: No such file"),
        ({"seeds": "few.csv"}, "campaign golf club: list/few.csv: 2 of 3 seeds are users of the d"),
        ({"seeds": "words.csv"}, "words.csv:2: expected one user id, got 'two'"),
        ({"attributes": {"advertiser": 2}}, "campaign golf club: campaign attributes: has no 'cat"),
        ({"attributes": None}, "campaign golf club: has no 'attributes'; expected name, seeds"),
        ({"attributes": "x"}, "campaign golf club: attributes: expected a JSON object"),
        ({"previous": "words.csv"}, "words.csv: not the file of an audience"),
        ({"name": "tea"}, "campaigns: campaign tea: occurs twice"),
    ],
)
def test_a_bad_campaign_is_named_before_the_work(many, tmp_path, capsys, changed, words):
    (tmp_path / "list" / "few.csv").write_text(f"{SEEDS[0]}\n{SEEDS[1]}\n4")
    (tmp_path / "list" / "words.csv").write_text("1\ntwo")
    path = tmp_path / "list" / "campaigns"
    first, second = map(json.loads, path.read_text().splitlines())
    path.write_text("\n".join(map(json.dumps, [first, {**second, **changed}])))
    before = contents(tmp_path)
    refuses(capsys, main, "expand", *words_of(many), words=(words,))
    assert contents(tmp_path) == before


def test_all_bad_campaigns_are_named_at_once(many, tmp_path, capsys):
    (tmp_path / "list" / "few.csv").write_text(f"{SEEDS[0]}\n{SEEDS[1]}\n4")
    path = tmp_path / "list" / "campaigns"
    first, second = map(json.loads, path.read_text().splitlines())
    few = [{**second, "name": f"few {number}", "seeds": "few.csv"} for number in range(60)]
    path.write_text("\n".join(map(json.dumps, [first, *few])))
    capsys.readouterr()
    assert exit_code(main, "expand", *words_of(many)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 60 errors: campaign few 0: list/few.csv: 2 of 3 seeds")
    assert "; campaign few 49: " in error
    assert "campaign few 50" not in error
    assert error.endswith("; and 10 more; --skip-unusable expands the others\n")
    for entry in few[:2]:
        entry["attributes"] = {}
    path.write_text("\n".join(map(json.dumps, [first, *few])))
    words = ("60 errors: campaign few 0: campaign attributes", "campaign few 2: list/few.csv: 2 of")
    refuses(capsys, main, "expand", *words_of(many), words=words)


@pytest.fixture
def some_bad(many, made, tmp_path):
    """Options, and a list with a good campaign, "tea", and one that is bad at each stage."""
    method = method_named("mlp-pretraining", TINY)
    for name, campaigns in (("model", [0, 1, 2]), ("other", [1, 2, 3])):
        save(method.fit(DATA, campaigns=campaigns), tmp_path / name)
    folder = tmp_path / "list"
    (folder / "few.csv").write_text(f"{SEEDS[0]}\n{SEEDS[1]}\n4")
    (folder / "unknown.csv").write_text("4\n5")
    (folder / "some.csv").write_text("\n".join(map(str, SEEDS[:49])))
    given = ("--data", made.data, "--seeds", folder / "some.csv", "--attributes", "attributes")
    for name in ("model", "other"):
        out = ("--out", folder / f"of {name}", "--least-seeds", 1)
        succeeds(main, "customise", name, *given, *out)
    path = folder / "campaigns"
    first, second = map(json.loads, path.read_text().splitlines())
    bad = {
        "no file": {"seeds": "none.csv"},
        "no folder": {"folder": "none"},
        "no attribute": {"attributes": {}},
        "no user": {"seeds": "unknown.csv"},
        "few": {"seeds": "few.csv"},
        "few, and no list": {"seeds": "few.csv", "suppress": "none.csv"},
        "of another model": {"folder": "of other"},
        "too few for --probability": {"folder": "of model"},
    }
    entries = {name: {**second, "name": name, **changed} for name, changed in bad.items()}
    for entry in entries.values():
        if "folder" in entry:
            del entry["seeds"], entry["attributes"]
    entries["tea"] = first
    path.write_text("\n".join(map(json.dumps, entries.values())))
    return {**many, "": "model", "--probability": ""}, entries


def test_unusable_campaigns_are_skipped_if_asked(some_bad, tmp_path, capsys):
    many, entries = some_bad
    words = ("3 errors: campaign no file: ", "; --skip-unusable expands the others")
    refuses(capsys, main, "expand", *words_of(many), words=words)
    capsys.readouterr()
    skipping = {**many, "--skip-unusable": ""}
    assert exit_code(main, "expand", *words_of(skipping)) == 3
    printed = capsys.readouterr().out
    assert "audiences: 1 audiences, 8 skipped; audiences.json has the details" in printed
    assert contents(tmp_path / "audiences") == {"tea.csv", "audiences.json"}
    record = json.loads((tmp_path / "audiences" / "audiences.json").read_text())
    reasons = {own["name"]: own["reason"] for own in record["skipped"]}
    assert set(reasons) == set(entries) - {"tea"}
    assert len(record["skipped"]) == len(reasons)
    assert all(reason.startswith(f"campaign {name}: ") for name, reason in reasons.items())
    assert all(f"skipped: {reason}\n" in printed for reason in reasons.values())
    assert reasons["no file"] == "campaign no file: list/none.csv: No such file or directory"
    assert reasons["few"].endswith("fewer than --least-seeds 100; give more seeds")
    assert "too few to calibrate prob" in reasons["too few for --probability"]
    assert [own["file"] for own in record["inputs"] if own["option"] == "seeds"] == ["list/tea.csv"]
    audience = (tmp_path / "audiences" / "tea.csv").read_bytes()

    path = tmp_path / "list" / "campaigns"
    path.write_text(json.dumps(entries["tea"]))
    succeeds(main, "expand", *words_of(skipping))
    assert (tmp_path / "audiences" / "tea.csv").read_bytes() == audience
    assert json.loads((tmp_path / "audiences" / "audiences.json").read_text())["skipped"] == []

    bad = ("no user", "no file", "few")
    path.write_text("\n".join(json.dumps(entries[name]) for name in bad))
    before = contents(tmp_path)
    words = ("3 errors: campaign no file: ", "campaign no user: ", "campaign few: list/few.csv: ")
    refuses(capsys, main, "expand", *words_of(skipping), words=words)
    assert contents(tmp_path) == before


def test_a_skipped_campaign_comes_back_although_its_earlier_audience_is_gone(many, tmp_path):
    """Its earlier audience is only for a comparison, and is in the folder that was replaced."""
    path, found = tmp_path / "list" / "campaigns", {}
    entries = list(map(json.loads, path.read_text().splitlines()))
    for entry in entries:
        entry["previous"] = f"../audiences/{entry['name']}.csv"
    path.write_text("\n".join(map(json.dumps, entries)))
    golf, many = tmp_path / "list" / "golf.csv", {**many, "--skip-unusable": ""}
    seeds = golf.read_text()
    for night in range(3):
        golf.write_text(seeds if night else "late")
        assert exit_code(main, "expand", *words_of(many)) == (0 if night else 3)
        record = json.loads((tmp_path / "audiences" / "audiences.json").read_text())
        found[night] = {own["name"]: (own["refresh"], own["notes"]) for own in record["campaigns"]}
    assert list(found[0]) == ["tea"]
    assert found[0]["tea"][0] is None
    refresh, notes = found[1]["golf club"]
    assert refresh is None
    [note] = [note for note in notes if "not compared" in note]
    assert note.startswith("not compared with an earlier audience: campaign golf club: list/../aud")
    assert found[2]["golf club"][0] == {"kept": 5, "new": 0, "gone": 0}
    assert not [note for note in found[2]["golf club"][1] if "not compared" in note]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"--out": "list"},
            "--out: list: exists and is not a folder of audiences, or has a damaged",
        ),
        ({"--previous": "seeds"}, '--previous: not with --campaigns; give "previous" of each camp'),
        ({"--campaigns": "none"}, "none: No such file"),
        ({"--seeds": "seeds"}, "expand: give --seeds and --attributes, or --campaigns"),
        ({"--exclude-shown": ""}, "--exclude-shown: only for a campaign's folder, which has feedb"),
    ],
)
def test_options_that_do_not_suit_many_campaigns(many, tmp_path, capsys, changed, words):
    before = contents(tmp_path)
    refuses(capsys, main, "expand", *words_of({**many, **changed}), words=(words,))
    assert contents(tmp_path) == before


def test_a_report_compares_with_the_file_that_is_replaced(options, tmp_path):
    succeeds(main, "expand", *words_of({**options, "--size": 40}))
    more = {"--size": 60, "--report": "report.html", "--previous": "audience.csv"}
    succeeds(main, "expand", *words_of({**options, **more}))
    page = (tmp_path / "report.html").read_text()
    assert re.search(r"audience\.csv</th>\s<td.*>40</td>\s<td.*>40</td>\s<td.*>66\.7%<", page)


def test_a_report_of_the_audience(options, tmp_path):
    succeeds(main, "expand", *words_of({**options, "--size": 60}))
    (tmp_path / "audience.csv").rename(tmp_path / "may.csv")
    more = {"--size": 60, "--report": "report.html", "--compare": "may.csv", "--base-rate": 0.2}
    succeeds(main, "expand", *words_of({**options, **more}))
    files = {"may.csv", "audience.csv", "audience.csv.json", "report.html"}
    assert contents(tmp_path) == {"seeds", "attributes", *files}
    page = (tmp_path / "report.html").read_text()
    assert "<h1>Audience audience.csv</h1>" in page
    assert page.count("<table>") == 5  # the data has no sensitive field
    row = r"may\.csv</th>\s<td.*>60</td>\s<td.*>60</td>\s<td.*>100\.0%</td>\s<td.*>1\.000<"
    assert re.search(row, page)
    assert 'alt="Line chart of the fraction of held-out seeds found' in page
    assert "assume that 20.000% of the pool" in page


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"--report": "none/x.html"}, "--report: none is not a folder"),
        ({"--report": "audience.csv"}, "--report: audience.csv: expected a name that ends with"),
        ({"--report": "x.html", "--compare": "none.csv"}, "none.csv: no such file"),
        (
            {"--report": "x.html", "--compare": "may.csv", "--out": "may.csv"},
            "--out: may.csv would replace a file",
        ),
        (
            {"--report": "may.html", "--compare": "may.html"},
            "--report: may.html would replace a file",
        ),
        (
            {"--report": "x.html", "--compare": "words.csv"},
            "words.csv: line 2: user_id is 'ann', expected a whole number",
        ),
        ({"--report": "x.html", "--compare": "nobody.csv"}, "nobody.csv: has no users to compare"),
        ({"--report": "x.html", "--previous": "nobody.csv"}, "nobody.csv: has no users to compare"),
        (
            {"--report": "x.html", "--size": None, "--from-percent": 60, "--to-percent": 70},
            "audience: has no users, since there are only 80 candidates, and the first rank r",
        ),
        ({"--compare": "seeds"}, "--compare: only with --report"),
        (
            {"--report": "x.html", "--campaigns": "c", "--seeds": None, "--attributes": None},
            "--report: not with --campaigns",
        ),
    ],
)
def test_reports_that_make_no_sense(options, tmp_path, capsys, changed, words):
    (tmp_path / "words.csv").write_text("user_id\nann\n")
    (tmp_path / "nobody.csv").write_text("rank,user_id,score\n")
    for name in ("may.csv", "may.html"):
        (tmp_path / name).write_text("rank,user_id,score\n1,5,0.5\n")
    before = contents(tmp_path)
    refuses(capsys, main, "expand", *words_of({**options, **changed}), words=(words,))
    assert contents(tmp_path) == before
