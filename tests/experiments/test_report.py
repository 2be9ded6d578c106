"""Tables of a comparison on results written by hand, and what is stored of it."""

import base64
import json
import re

import numpy as np
import pytest
from judged_runs import FirstTwo, campaign, comparison, result, runs
from rich.console import Console

from experiments.comparison import report
from experiments.comparison.published import PUBLISHED
from metaheac_jax.errors import InputError


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
        "alpha-0": "not in the paper",
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


def test_the_page_needs_no_other_file(tmp_path):
    report.write(tmp_path, comparison(runs()), Console(quiet=True))
    page = (tmp_path / "report.html").read_text()
    assert "<h1>" in page
    assert re.findall(r'src="([^,]*),', page) == ["data:image/png;base64"] * 2
    assert not re.search(r"https?:|href|<script|url\(", page)
    names = ("auc.png", "auc_by_seeds.png")
    for data, name in zip(re.findall(r'base64,([^"]*)"', page), names, strict=True):
        assert base64.b64decode(data) == (tmp_path / name).read_bytes()
    assert "toy [bold]: two runs" in page


def test_text_in_the_page_is_escaped():
    page = report.html("a < b & c", [report.Table("t", ["<method>"], [["x<y"]])], ["<i>"], {})
    for text in ("a &lt; b &amp; c", "<th>&lt;method&gt;</th>", "<td>x&lt;y</td>", "<li>&lt;i&gt;"):
        assert text in page


def test_what_was_stored_is_drawn_again(tmp_path, monkeypatch):
    monkeypatch.setattr("sklearn.manifold.TSNE", FirstTwo)
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
    report.main(report.Options(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written
    # The tables come from the campaigns' lines.
    (tmp_path / "campaigns.jsonl").write_text(
        "".join(json.dumps(line | {"auc": 0.125}) + "\n" for line in lines)
    )
    report.main(report.Options(tmp_path))
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
    tables = {t.title: t for t in report.build_tables(given, report.summarise(results))}
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
    names = ("metaheac", "oracle", "alpha-0", "mmoe", "seed-aware", "lr", "mlp-one-stage")
    run = {name: result(name, [campaign(1, "small", 0.6)], small=0.6) for name in names}
    (table, *_) = report.build_tables(comparison([run]), report.summarise([run]))
    order = ["lr", "mlp-one-stage", "mmoe", "alpha-0", "metaheac", "seed-aware", "oracle"]
    assert [row[0] for row in table.rows] == order


def test_an_ablation_alone_has_its_own_table_and_no_other(tmp_path):
    alone = {"without-hc": runs()[0]["metaheac"]}
    report.write(tmp_path, comparison([alone]), Console(quiet=True))
    text = (tmp_path / "report.md").read_text()
    assert "## Ablation" in text
    assert "## Methods" not in text
