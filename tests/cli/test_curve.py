"""`metaheac curve`: what it prints and writes is the library's curve."""

import csv
import sys
from dataclasses import replace

import numpy as np
import pytest
from commands import contents, refuses, succeeds, with_options

from metaheac_jax.audience.campaign_folder import read_campaign
from metaheac_jax.audience.curve import PERCENTS, seed_rate, size_curve
from metaheac_jax.audience.held_out_seeds import hold_out_seeds
from metaheac_jax.cli.main import main
from metaheac_jax.data.storage import open_dataset, write_dataset
from metaheac_jax.methods import method_of
from metaheac_jax.model import load


@pytest.fixture
def words(toy_campaign):
    options = {"data": toy_campaign.data, "seeds": toy_campaign.seeds}
    options["attributes"] = toy_campaign.attributes
    return ["curve", toy_campaign.model, *(w for k, v in options.items() for w in (f"--{k}", v))]


def test_the_curve_is_the_librarys(toy_campaign, words, tmp_path, capsys):
    out = tmp_path / "curve.csv"
    excluded = toy_campaign.dataset.user_ids[115:140].tolist()
    (tmp_path / "optouts").write_text("\n".join(map(str, [*excluded, 10**9])))
    more = ("--exclude", tmp_path / "optouts", "--base-rate", 0.4, "--seed", 3)
    succeeds(main, *words, "--out", out, *more)
    printed = capsys.readouterr().out
    data, general = open_dataset(toy_campaign.data), load(toy_campaign.model)
    seeds = data.user_ids[:120]
    campaign = data.new_campaign(seeds, {"advertiser": 2, "category": 1}, exclude=excluded, seed=3)
    held = hold_out_seeds(method_of(general), general, data, campaign, exclude=excluded, seed=3)
    points = size_curve(held, data, base_rate=0.4)
    header, *rows = csv.reader(out.read_text().splitlines())
    names = ("edge", "recall", "lift", "conversions")
    columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    assert header == ["percent", "size", *columns]
    expected = [
        [point.percent, point.size, *(bound for name in names for bound in getattr(point, name))]
        for point in points
    ]
    np.testing.assert_array_equal(np.array(rows, float), np.array(expected))
    assert [point.percent for point in points] == list(PERCENTS)
    assert "120 of them users of the data (100%), 5 of these excluded\n" in printed
    assert "115 seeds, 23 of them held out" in printed
    assert "optouts: 25 of 26 ids to leave out are users of the data\n" in printed
    assert "Expected conversions assume that 40.000% of the pool would convert" in printed
    assert "give --base-rate" not in printed
    recall = points[-1].recall
    assert f"{recall.value:.1%} ({recall.low:.1%} to {recall.high:.1%})" in printed


def test_a_campaigns_folder_has_its_seeds_and_feedback(tea, tmp_path, capsys):
    """Converts are seeds who are not held out; who is excluded is neither."""
    shown = tea.user_ids[200:240]
    rows = [f"{user},{number % 4 == 0:d}" for number, user in enumerate(shown)]
    (tmp_path / "shown.csv").write_text("\n".join(["user_id,converted", *rows]))
    optouts = tmp_path / "optouts"
    optouts.write_text("\n".join(map(str, tea.user_ids[[*tea.seeds[:7], 300]])))
    succeeds(main, "feedback", tea.folder, tmp_path / "shown.csv")
    command = ("curve", tea.folder, "--data", tea.data)
    refuses(capsys, main, *command, words=("feedback has changed since its model learned",))
    succeeds(main, "update", tea.folder, "--data", tea.data, "--exclude", optouts)
    capsys.readouterr()
    succeeds(main, *command, "--out", tmp_path / "curve.csv", "--seed", 3)
    printed = capsys.readouterr().out
    assert "123 seeds, 22 of them held out" in printed  # 113 of the first are left, and 10 converts
    data, saved = open_dataset(tea.data), read_campaign(tea.folder)
    general = saved.load_general()
    campaign = saved.customised(general, data).campaign
    held = hold_out_seeds(method_of(general), general, data, campaign, seed=3)
    points = size_curve(held, data, base_rate=seed_rate(held.num_given_seeds, data))
    rows = list(csv.DictReader((tmp_path / "curve.csv").read_text().splitlines()))
    assert [float(row["recall"]) for row in rows] == [point.recall.value for point in points]
    assert [int(row["size"]) for row in rows] == [point.size for point in points]
    words = (f"{tea.folder}: is a campaign, which has its seeds and attributes; omit --seeds and",)
    refuses(capsys, main, *command, "--seeds", optouts, words=words)
    assert "That is the fraction of users who are seeds, without those from feedback; " in printed
    words = ("curve: give --seeds and --attributes, or a campaign from metaheac customise",)
    refuses(capsys, main, "curve", tea.model, "--data", tea.data, words=words)
    words = ("tee: no such folder; give a model from metaheac fit, or a campaign from metaheac ",)
    refuses(capsys, main, "curve", tmp_path / "tee", *command[2:], words=words)
    optouts.write_text(str(tea.user_ids[tea.seeds[20]]))
    words = (
        f"--exclude: {tea.folder} was customised to users who are",
        "use --suppress of metaheac",
    )
    refuses(capsys, main, *command, "--exclude", optouts, words=words)


def test_nothing_is_learned_from_users_who_are_excluded_from_a_folder(
    tea, tmp_path, capsys, monkeypatch
):
    learned = []
    noted = lambda *args, **options: learned.append(args[3]) or hold_out_seeds(*args, **options)  # noqa: E731
    monkeypatch.setattr("metaheac_jax.cli.held_out_seeds.hold_out_seeds", noted)
    (tmp_path / "optouts").write_text("\n".join(map(str, tea.user_ids[tea.non_seeds[:9]])))
    command = ("curve", tea.folder, "--data", tea.data)
    succeeds(main, *command)
    succeeds(main, *command, "--exclude", tmp_path / "optouts")
    gone = np.setdiff1d(learned[0].users, learned[1].users)
    np.testing.assert_array_equal(gone, np.sort(tea.non_seeds[:9]))
    (tmp_path / "optouts").write_text("\n".join(map(str, tea.user_ids[tea.non_seeds])))
    words = (f"{tea.folder}: none of its non-seeds is left to learn from; exclude fewer users",)
    refuses(capsys, main, *command, "--exclude", tmp_path / "optouts", words=words)


def test_data_with_several_rows_per_user_has_no_curve(tea, capsys):
    data = replace(open_dataset(tea.data), one_row_per_user=False)
    write_dataset(data, tea.data)
    refuses(capsys, main, "curve", tea.folder, "--data", tea.data, words=("several rows",))


def test_values_that_training_has_not_seen_are_told(words, tmp_path, capsys):
    (tmp_path / "new.json").write_text('{"advertiser": 2, "category": 99}')
    assert words[-2] == "--attributes"
    succeeds(main, *words[:-1], tmp_path / "new.json")
    told = "note: training has not seen these values of the campaign: category 99\n"
    assert told in capsys.readouterr().out


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG\r\n"), ("SVG", b"<?xml")])
def test_a_figure_by_suffix(words, tmp_path, capsys, suffix, start):
    succeeds(main, *words, "--figure", tmp_path / f"curve.{suffix}")
    assert contents(tmp_path) == {f"curve.{suffix}"}
    printed = capsys.readouterr().out
    assert "assume that 30.000% of the pool would convert" in printed  # 120 of 400
    assert "That is the fraction of users who are seeds; give --base-rate if" in printed
    assert (tmp_path / f"curve.{suffix}").read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--exclude", "x.csv", "--out", "./x.csv"), "--out: x.csv would replace a file that is"),
        (("--out", "none/x.csv"), "--out: none is not a folder"),
        (("--out", "x.parquet"), "--out: x.parquet: expected a name that ends with .csv"),
        (("--figure", "none/x.png"), "--figure: none is not a folder"),
        (("--exclude", "x.svg", "--figure", "x.svg"), "--figure: x.svg would replace a file that"),
        (("--figure", "x.jpg"), "--figure: x.jpg: expected a name that ends with .png or .svg"),
        (("--base-rate", 0), "--base-rate: expected more than 0 and at most 1, got 0"),
        (("--base-rate", "nan"), "--base-rate: expected more than 0 and at most 1, got nan"),
        (("--seed", -1), "--seed: expected 0 or more"),
    ],
)
def test_options_that_make_no_sense(words, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    refuses(capsys, main, *words, *options, words=(message,))
    assert contents(tmp_path) == set()


@pytest.mark.parametrize("option", ["--seeds", "--exclude"])
def test_a_missing_file_is_told_before_the_work_begins(words, tmp_path, capsys, option):
    given = {"--data": tmp_path / "no-data", option: tmp_path / "ids.csv"}
    words = with_options(words, given)
    refuses(capsys, main, *words, words=(f"{tmp_path / 'ids.csv'}: No such file",))


def test_without_matplotlib_a_figure_is_refused_at_once(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    message = "figures need Matplotlib; install it with pip install 'metaheac-jax[figures]'"
    refuses(capsys, main, *words, "--figure", tmp_path / "x.svg", words=(message,))
    assert contents(tmp_path) == set()
    succeeds(main, *words)
