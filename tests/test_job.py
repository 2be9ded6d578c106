"""The job's judgements and folder, and the report's tables, on results written by hand."""

import base64
import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console
from toy import dataset

from experiments import figures, job, report
from experiments.job import (
    check_run,
    configuration,
    describe,
    judge_all,
    keep_settings,
    open_run,
    write_json,
)
from experiments.methods.method import Job
from experiments.published import PUBLISHED
from metaheac_jax.data.dataset import group_by_campaign
from metaheac_jax.data.splits import Split
from metaheac_jax.errors import InputError
from metaheac_jax.presets import OFFICIAL, PAPER
from metaheac_jax.progress import silent

# Judging ---------------------------------------------------------------------------------------


def split_of(test, small, campaigns=5):
    train = np.setdiff1d(np.arange(campaigns), test)
    return Split(train, np.array(test), np.isin(np.arange(campaigns), small), threshold=9)


def world():
    """Five campaigns, keys 100 to 140; pools of 40, 40, 40, 19 and 40, the last all negative."""
    data = dataset(users=200, campaigns=5, per_campaign=30, pool=40)
    sizes = (40, 40, 40, 19, 40)
    campaign = np.repeat(np.arange(5), sizes)
    label = np.arange(len(campaign)) % 4 == 0
    label[campaign == 4] = False
    user = np.arange(len(campaign))
    return dataclasses.replace(data, stage2=group_by_campaign(campaign, user, label, campaigns=5))


def test_every_test_campaign_is_judged_in_its_group_or_named():
    data, split = world(), split_of([1, 2, 3, 4], small=[0, 2])
    labels = [data.stage2.label[data.stage2.of(c)].astype(float) for c in split.test]
    # Campaign 1 is ranked rightly and 2 the wrong way round: judgements must not change places.
    result = judge_all(data, split, [labels[0], -labels[1], *labels[2:]], label="a label")
    assert result["label"] == "a label"
    seeds = data.stage1.positives
    # The top 5% of 40 are 2, of 10 positives.
    assert result["campaigns"] == [
        {"campaign": 110, "seeds": seeds[1], "group": "large"}
        | {"auc": 1.0, "precision": 1.0, "recall": 0.2},
        {"campaign": 120, "seeds": seeds[2], "group": "small"}
        | {"auc": 0.0, "precision": 0.0, "recall": 0.0},
    ]
    assert result["left_out"] == [
        {"campaign": 130, "why": "19 candidates, fewer than 20"},
        {"campaign": 140, "why": "0 positives among 40 candidates"},
    ]
    assert result["pooled_auc"] == {"small": 0.0, "large": 1.0}
    json.dumps(result)  # plain numbers


def test_pooled_auc_compares_across_campaigns():
    data, split = world(), split_of([0, 1], small=[0, 1])
    labels = [data.stage2.label[data.stage2.of(c)].astype(float) for c in split.test]
    # Each campaign is ranked rightly, but all of the second one stands above all of the first.
    result = judge_all(data, split, [labels[0], labels[1] + 2], label="")
    assert [campaign["auc"] for campaign in result["campaigns"]] == [1.0, 1.0]
    # Positives 10 + 10, negatives 30 + 30: right are 300 + 300 within, 300 of 600 across.
    assert result["pooled_auc"] == {"small": 0.75}


def test_ties_go_to_the_smaller_user_id():
    data, split = world(), split_of([0], small=[])
    key = data.user_key.copy()
    key[:40] = key[:40][::-1]
    flat = [np.zeros(40)]
    # Label 1 stands at 0, 4, ..., 36: the first two users hold one, the last two (38, 39) none.
    assert judge_all(data, split, flat, label="")["campaigns"][0]["precision"] == 0.5
    other = dataclasses.replace(data, user_key=key)
    assert judge_all(other, split, flat, label="")["campaigns"][0]["precision"] == 0.0


@pytest.mark.parametrize(
    ("stage1", "words"),
    [
        (
            lambda label, c: np.where(c == 3, 1, label),
            "campaign 130: stage 1 has 30 seeds among 30",
        ),
        (lambda label, c: np.where(c == 1, 0, label), "campaign 110: stage 1 has 0 seeds among 30"),
    ],
)
def test_a_campaign_of_one_class_is_refused_in_training_and_test(stage1, words):
    data, split = world(), split_of([3, 4], small=[])
    campaign = np.repeat(np.arange(5), 30)
    label = stage1(data.stage1.label, campaign)
    bad = dataclasses.replace(data, stage1=dataclasses.replace(data.stage1, label=label))
    preset = dataclasses.replace(PAPER, campaigns_per_step=3)
    check_run(data, split, preset)
    with pytest.raises(InputError, match=words):
        check_run(bad, split, preset)


def test_too_few_training_campaigns_are_refused():
    preset = dataclasses.replace(PAPER, campaigns_per_step=4)
    with pytest.raises(InputError, match="3 training campaigns, but a meta-step takes 4"):
        check_run(world(), split_of([3, 4], small=[]), preset)


def test_what_a_run_is_about():
    assert describe(world(), split_of([3, 4], small=[])) == {
        "data": "toy",
        "users": 200,
        "campaigns": 5,
        "stage1": 150,
        "stage2": 179,
        "rows": 46,
        "train_campaigns": 3,
        "test_campaigns": 2,
        "threshold": 9,
    }


# A run's folder --------------------------------------------------------------------------------


def test_json_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": 2, "b": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]

    write = Path.write_text

    def half(self, text, *arguments, **options):
        write(self, text[:4], *arguments, **options)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(OSError, match="No space left"):
            write_json(path, {"a": 3})
    assert json.loads(path.read_text()) == {"a": 1}
    write_json(path, {"a": 4})
    assert json.loads(path.read_text()) == {"a": 4}
    assert list(tmp_path.iterdir()) == [path]


CONFIG = configuration(PAPER, seed=0, split=None, sizes=(1, 2))


def test_a_run_of_the_same_configuration_is_resumed_as_it_stands(tmp_path):
    directory = tmp_path / "deep" / "run"
    open_run(directory, CONFIG, resume=False)
    write_json(directory / "methods" / "lr.json", {"label": "LR"})
    (directory / "log.jsonl").write_text("{}\n")
    open_run(directory, CONFIG, resume=True)
    assert json.loads((directory / "methods" / "lr.json").read_text()) == {"label": "LR"}
    assert (directory / "log.jsonl").read_text() == "{}\n"


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (configuration(OFFICIAL, seed=0, split=None, sizes=(1, 2)), "preset"),
        (CONFIG | {"seed": 1}, "seed"),
        (CONFIG | {"sizes": (1, 3), "split": "paper"}, "sizes, split"),
        (CONFIG | {"more": 1}, "more"),
        ({key: value for key, value in CONFIG.items() if key != "seed"}, "seed"),
    ],
)
def test_a_run_of_another_configuration_is_not_resumed(tmp_path, config, what):
    open_run(tmp_path / "run", CONFIG, resume=False)
    (tmp_path / "run" / "methods" / "lr.json").write_text("{}")
    with pytest.raises(InputError, match=f"config.json: the run had another {what}; "):
        open_run(tmp_path / "run", config, resume=True)
    assert (tmp_path / "run" / "methods" / "lr.json").exists()


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "null"])
def test_a_damaged_configuration_is_named(tmp_path, text):
    open_run(tmp_path, CONFIG, resume=False)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config.json: not a run's configuration"):
        open_run(tmp_path, CONFIG, resume=True)


def test_a_new_run_replaces_what_the_older_one_left_and_nothing_else(tmp_path):
    open_run(tmp_path, CONFIG, resume=False)
    own = ("methods/lr.json", "checkpoints/lr/8", "log.jsonl")
    for name in (*own, "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    open_run(tmp_path, CONFIG | {"seed": 1}, resume=False)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "methods", "notes.txt"}
    assert not list((tmp_path / "methods").iterdir())
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


@pytest.mark.parametrize("name", ["methods", "checkpoints"])
def test_somebody_elses_folders_are_not_deleted(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.tex").write_text("ten years")
    with pytest.raises(InputError, match=f"has {name} but no config.json"):
        open_run(tmp_path, CONFIG, resume=False)
    assert (tmp_path / name / "thesis.tex").exists()


# Tables ----------------------------------------------------------------------------------------


def campaign(number, group, auc):
    """A judged campaign; precision and recall are other numbers than its AUC."""
    return {
        "campaign": number,
        "seeds": 10 * number,
        "group": group,
        "auc": auc,
        "precision": auc / 2,
        "recall": auc / 4,
    }


def result(label, campaigns, left_out=(), **pooled):
    return {
        "label": label,
        "campaigns": campaigns,
        "left_out": [{"campaign": number, "why": why} for number, why in left_out],
        "pooled_auc": pooled,
    }


def runs():
    """Two runs of two methods: three small campaigns and a large one, then one small campaign."""
    first = [campaign(1, "small", 0.5), campaign(2, "small", 0.6), campaign(3, "small", 0.7)]
    first.append(campaign(4, "large", 0.9))
    second = [campaign(5, "small", 0.8)]
    gone = ((7, "3 candidates"),)
    return [
        {
            "lr": result("LR", first, small=0.55, large=0.85),
            "metaheac": result("MetaHeac", [campaign(1, "small", 1.0)], small=0.65),
        },
        {
            "lr": result("LR", second, gone, small=0.75),
            "metaheac": result("MetaHeac", [campaign(5, "small", 0.0)], gone, small=0.25),
        },
    ]


def test_means_are_over_campaigns_and_then_over_runs():
    summary = report.summarise(runs())
    assert list(summary) == ["lr", "metaheac"]
    small, large = summary["lr"]["small"], summary["lr"]["large"]
    # .6 (of .5, .6, .7) and .8; over the four campaigns alike it would be .65.
    assert small["auc"]["mean"] == pytest.approx(0.7)
    assert small["auc"]["std"] == pytest.approx(0.2 / 2**0.5)  # of a sample: n - 1
    assert small["precision"]["mean"] == pytest.approx(0.35)
    assert small["recall"]["mean"] == pytest.approx(0.175)
    assert small["pooled_auc"]["mean"] == pytest.approx(0.65)
    assert small["campaigns"] == 2
    # Only one run has a large campaign.
    assert large["auc"] == {"mean": pytest.approx(0.9), "std": 0.0}
    assert large["campaigns"] == 0.5
    assert summary["metaheac"]["small"]["auc"]["mean"] == pytest.approx(0.5)
    assert summary["metaheac"]["large"] == {"campaigns": 0.0}
    assert summary["lr"]["left_out"] == [{"campaign": 7, "why": "3 candidates"}]
    json.dumps(summary)


def test_rows_say_means_and_deviations_where_there_are_several_runs():
    header, rows = report.table_rows(report.summarise(runs()), 2)
    assert header[:2] == ["method", "2 small: AUC"]
    assert header[5] == "0.5 large: AUC"
    assert rows[0][:3] == ["LR", "0.7000 ±0.1414", "0.3500 ±0.0707"]
    assert rows[1] == [
        *("MetaHeac", "0.5000 ±0.7071", "0.2500 ±0.3536", "0.1250 ±0.1768", "0.4500 ±0.2828"),
        *("-", "-", "-", "-"),
    ]
    header, rows = report.table_rows(report.summarise(runs()[:1]), 1)
    assert header[1] == "3 small: AUC"
    assert rows[0][:5] == ["LR", "0.6000", "0.3000", "0.1500", "0.5500"]


def test_the_papers_figures_stand_in_the_right_columns_and_say_whose_they_are():
    labels = {
        "lr": "LR",
        "alpha-0": "ours only",
        "without-meta": "w/o Meta",
        "metaheac": "MetaHeac",
    }
    header, _ = report.table_rows(report.summarise(runs()), 2)
    rows = {row[0]: row for row in report.paper_rows(labels, PUBLISHED["tencent"])}
    assert list(rows) == ["LR [paper]", "w/o Meta [paper]", "MetaHeac [paper]"]
    # Table 2, MetaHeac: AUC, P@5%, R@5% of small sets, then of large ones; no pooled AUC.
    assert rows["MetaHeac [paper]"][1:] == [
        *("0.7239", "0.2489", "0.2554", "-"),
        *("0.7142", "0.2244", "0.2356", "-"),
    ]
    assert rows["w/o Meta [paper]"][3] == "-"  # its recall was not published
    assert all(len(row) == len(header) for row in rows.values())
    assert [i for i, cell in enumerate(header) if cell == report.POOLED] == [4, 8]


NOTES = Path(__file__).parents[2] / "shared" / "paper.md"


@pytest.mark.skipif(not NOTES.exists(), reason="the notes on the paper (../shared) are not here")
def test_published_figures_are_those_of_the_paper():
    text = NOTES.read_text()
    labels = {"lr": "LR", "mlp-one-stage": "MLP_one-stage", "mlp-embeddings": "MLP+emb"}
    labels |= {"pinterest": "Pinterest", "hubble": "Hubble", "mlp-pretraining": "MLP+pre-training"}
    labels |= {"shared-bottom": "Shared-Bottom+pre-training", "mmoe": "MMoE+pre-training"}
    labels |= {"metaheac": "MetaHeac"}
    for name, label in labels.items():
        first = "WeChat: LR" if name == "lr" else label  # which heads the second table
        lines = re.findall(rf"\| {re.escape(label)} \| \..*", text)
        lines += re.findall(rf"\| {re.escape(first)} \| \..*", text) if name == "lr" else []
        found = [tuple(float(x) for x in re.findall(r"\.\d{4}", line)) for line in lines]
        assert [PUBLISHED["tencent"][name], PUBLISHED["wechat"][name]] == found
    for name, words in (
        *(("without-hc", "one critic (w/o HC)"), ("without-he", "one expert (w/o HE)")),
        ("without-meta", "(w/o Meta)"),
    ):
        line = re.search(rf"{re.escape(words)}([ .\d]+)\|\s([ .\d]+)[;.]", text)
        small, large = (tuple(float(f"0{x}") for x in side.split()) for side in line.groups())
        assert PUBLISHED["tencent"][name] == (*small, None, *large, None)
    assert set(PUBLISHED["wechat"]) == set(labels)
    assert set(PUBLISHED["tencent"]) == {*labels, "without-hc", "without-he", "without-meta"}


def comparison(results, **more):
    return report.Comparison("toy [bold]: two runs", list(range(len(results))), results, **more)


@pytest.mark.parametrize("published", [None, "tencent"])
def test_the_report_and_the_screen_say_the_same(tmp_path, capsys, published):
    directory = tmp_path / "out [red]"
    directory.mkdir()
    given = comparison(runs(), published=published)
    summary = report.write(directory, given, Console(width=160))
    assert summary == report.summarise(runs())
    text, printed = (directory / "report.md").read_text(), capsys.readouterr().out
    page = (directory / "report.html").read_text()
    for shown in (text, page, printed):
        assert given.title in shown
        assert shown.count("campaign 7 could not be judged: 3 candidates") == 1
        assert "0.7000 ±0.1414" in shown
        assert ("[paper]: the paper's own figures" in shown.replace("&#x27;", "'")) == bool(
            published
        )
        assert ("0.7239" in shown) == ("MetaHeac [paper]" in shown) == bool(published)
    assert f"are in {directory}\n" in printed
    assert "![AUC by number of seeds](auc_by_seeds.png)" in text
    methods = text.partition("## Methods")[2].partition("##")[0]
    cells = [line.count("|") for line in methods.splitlines() if line.startswith("|")]
    # A markdown table has as many cells in all rows.
    assert cells == [10] * (2 + 2 + 2 * bool(published))
    assert "0.6500" in text  # the pooled AUC; no room for it on the screen
    assert "pooled" not in printed


FIGURES = ("auc.png", "auc_by_seeds.png")


def test_the_page_needs_no_other_file(tmp_path):
    report.write(tmp_path, comparison(runs()), Console(quiet=True))
    page = (tmp_path / "report.html").read_text()
    assert "<h1>" in page
    assert re.findall(r'src="([^,]*),', page) == ["data:image/png;base64"] * 2
    assert not re.search(r"https?:|href|<script|url\(", page)
    for data, name in zip(re.findall(r'base64,([^"]*)"', page), FIGURES, strict=True):
        assert base64.b64decode(data) == (tmp_path / name).read_bytes()
    assert "toy [bold]: two runs" in page


def test_text_in_the_page_is_escaped():
    page = report.html("a < b & c", [report.Table("t", ["<method>"], [["x<y"]])], ["<i>"], {})
    for text in ("a &lt; b &amp; c", "<th>&lt;method&gt;</th>", "<td>x&lt;y</td>", "<li>&lt;i&gt;"):
        assert text in page


def test_what_was_stored_is_drawn_again(tmp_path, capsys):
    results = runs()
    for run in results:
        run["without-he"] = run["lr"] | {"label": "w/o HE"}
    rng = np.random.default_rng(0)
    results[0]["metaheac"]["space"] = {
        "campaign": list(range(8)),
        "category": list("aabbccdd"),
        "representation": rng.normal(size=(8, 3)).tolist(),
        "gate": rng.random((8, 2)).tolist(),
    }
    tuned = {"label": "LR", "tried": [], "chosen": {"online_learning_rate": 0.02}}
    for rate, more in ((0.02, {"auc": 0.625}), (0.1, {"auc": 0.5, "diverged": "it did"})):
        fields = {"online_learning_rate": rate}
        tuned["tried"].append({"field": "online_learning_rate", "fields": fields, **more})
    tuning = {"methods": {"lr": tuned}, "sizes": None}
    given = comparison(results, published="tencent", about={"data": "toy"}, tuning=tuning)
    report.write(tmp_path, given, Console(quiet=True))
    assert report.load(tmp_path) == given
    # Each judged campaign has a line of its own.
    lines = [json.loads(x) for x in (tmp_path / "campaigns.jsonl").read_text().splitlines()]
    assert lines[4] == {"run": 0, "method": "metaheac", **campaign(1, "small", 1.0)}
    assert len(lines) == 4 + 1 + 4 + 1 + 1 + 1
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {"space.png", "gate.png", "tuning.json"} < set(written)
    text = (tmp_path / "report.md").read_text()
    assert "| LR | online_learning_rate | 0.6250 | diverged | 0.02 |" in text
    for name in ("report.md", "report.html", "auc_by_seeds.png", "space.png"):
        (tmp_path / name).unlink()
    report.main(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written
    # The tables come from the campaigns' lines.
    (tmp_path / "campaigns.jsonl").write_text(
        "".join(json.dumps(line | {"auc": 0.125}) + "\n" for line in lines)
    )
    report.main(tmp_path)
    assert "| LR | 0.1250 ±0.0000 |" in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("results.json", None, "no results.json and campaigns.jsonl"),
        ("campaigns.jsonl", None, "no results.json and campaigns.jsonl"),
        ("results.json", "{", "its results are damaged"),
        ("results.json", "[]", "its results are damaged"),
        ("campaigns.jsonl", '{"run": 9}\n', "its results are damaged"),
    ],
)
def test_results_that_are_missing_or_damaged(tmp_path, name, text, words):
    report.write(tmp_path, comparison(runs()), Console(quiet=True))
    (tmp_path / name).unlink() if text is None else (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        report.load(tmp_path)


def test_the_ablations_have_a_table_of_their_own():
    results = runs()
    for run in results:
        run["without-he"] = run["lr"] | {"label": "MetaHeac w/o HE"}
        run["oracle"] = result("oracle", [campaign(1, "small", 0.9)], small=0.9)
    given = comparison(results, published="tencent")
    tables = {t.title: t for t in report.tables_of(given, report.summarise(results))}
    names = {title: [row[0] for row in table.rows] for title, table in tables.items()}
    assert names["Methods"] == ["LR", "MetaHeac", "oracle", "LR [paper]", "MetaHeac [paper]"]
    assert names["Ablation"][:2] == ["MetaHeac", "MetaHeac w/o HE"]
    assert "MetaHeac w/o HE [paper]" in names["Ablation"]
    # LR's AUC is .6 and .8, the oracle's .9: .25 and .75 of the way.
    (share,) = (t for title, t in tables.items() if "oracle" in title)
    assert share.rows[0][:2] == ["LR", "0.5000 ±0.3536"]
    assert share.rows[-1][:3] == ["oracle", "1.0000 ±0.0000", "-"]


def test_an_oracle_of_no_use_gives_no_share():
    run = {"lr": result("LR", [campaign(1, "small", 0.6)], small=0.6)}
    run["oracle"] = result("oracle", [campaign(1, "small", 0.5)], small=0.5)
    assert "oracle_share" not in report.summarise([run])["lr"]["small"]


def test_rows_are_in_the_papers_order():
    names = ("metaheac", "oracle", "alpha-0", "mmoe", "ours", "lr", "mlp-one-stage")
    run = {name: result(name, [campaign(1, "small", 0.6)], small=0.6) for name in names}
    (table, *_) = report.tables_of(comparison([run]), report.summarise([run]))
    order = ["lr", "mlp-one-stage", "mmoe", "alpha-0", "metaheac", "ours", "oracle"]
    assert [row[0] for row in table.rows] == order


def test_figures_are_drawn_if_there_is_something_to_draw(tmp_path):
    run = runs()[0]
    run["metaheac"] |= {
        "curve": {"campaign": 2, "steps": [0, 5], "loss": [0.7, 0.6], "auc": [0.5, 0.6]}
    }
    run["oracle"] = result("oracle", run["lr"]["campaigns"], small=0.9, large=0.9)
    empty = {"lr": result("LR", [], ((7, "3 candidates"),))}
    drawn = figures.draw([run], report.summarise([run]), tmp_path, "toy")
    assert [path.name for path in drawn.values()] == [*FIGURES, "fine_tuning.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn.values())
    assert len(figures.draw([empty], report.summarise([empty]), tmp_path, "toy")) == 2
    report.write(tmp_path, comparison([empty]), Console(quiet=True))
    assert "| LR | - | - | - | - | - | - | - | - |" in (tmp_path / "report.md").read_text()


def test_points_by_seeds_are_of_the_same_campaigns_for_every_method():
    seeds = [4, 9, 9, 9, 1, 9, 16, 25, 9, 9, 9, 9]
    one, two = ([{"seeds": n, "auc": a} for n, a in zip(seeds, aucs, strict=True)]
                for aucs in (np.arange(12) / 20, np.arange(12)[::-1] / 20))  # fmt: skip
    a, b = figures.binned(one), figures.binned(two)
    np.testing.assert_allclose(a[:, 0], [2, 9, 9, 9, 9, 20])
    np.testing.assert_allclose(a[0, 1], (0.0 + 0.2) / 2)
    # The second method's AUC is .55 less the first's in every campaign, and so in every part.
    np.testing.assert_allclose(a[:, 1] + b[:, 1], 0.55)
    assert figures.binned([]).shape == (0, 2)


def test_a_training_goes_on_with_the_settings_it_was_begun_with(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    job = Job(world(), np.arange(3), PAPER, 0, tmp_path / "checkpoints" / "lr", None, silent)
    keep_settings(job)
    keep_settings(job)
    other = dataclasses.replace(job, preset=OFFICIAL)
    with pytest.raises(InputError, match=r"lr.json: begun with other settings; start afresh"):
        keep_settings(other)


def test_an_ablation_alone_has_its_own_table_and_no_other(tmp_path):
    alone = {"without-hc": runs()[0]["metaheac"]}
    report.write(tmp_path, comparison([alone]), Console(quiet=True))
    text = (tmp_path / "report.md").read_text()
    assert "## Ablation" in text
    assert "## Methods" not in text


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="sections are counted on Linux")
def test_compiled_programs_are_dropped_when_they_are_many(monkeypatch):
    dropped = []
    monkeypatch.setattr(jax, "clear_caches", lambda: dropped.append(1))
    monkeypatch.setattr(job, "MOST_SECTIONS", 10**9)
    job.forget_compiled()
    assert not dropped
    monkeypatch.setattr(job, "MOST_SECTIONS", 10)
    job.forget_compiled()
    assert dropped
