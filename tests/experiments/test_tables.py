"""Tables, figures and the report of a comparison on results written by hand."""

import numpy as np
from judged_runs import campaign, comparison, of_means, result, runs

from experiments.baselines import METHODS
from experiments.comparison import figures, report
from experiments.comparison.results import load
from experiments.comparison.tables import PUBLISHED, build_tables, methods_table


def tables_of(of):
    return {table.title: table for table in build_tables(of)}


def test_rows_say_means_and_deviations_where_there_are_several_runs():
    table = methods_table(comparison(runs()))
    assert list(table.header[:5]) == ["method", "4 small: AUC", "P@5%", "R@5%", "1 large: AUC"]
    assert table.rows[0][:3] == ["LR", "0.7000 ±0.1414", "0.3500 ±0.0707"]
    assert table.rows[0][4] == "0.9000"
    table = methods_table(comparison(runs()[:1]))
    assert table.rows[0][:4] == ["LR", "0.6000", "0.3000", "0.1500"]


def test_the_papers_figures_stand_in_the_right_columns_and_say_whose_they_are():
    table = methods_table(comparison(runs(), published="tencent"))
    row = next(row for row in table.rows if row[0] == "LR [paper]")
    assert row[1:] == [f"{value:.4f}" for value in PUBLISHED["lr"]]
    assert "[paper]" in table.note
    assert set(PUBLISHED) <= set(METHODS)


def test_claims_and_pairs_have_their_tables():
    rows = {"alpha_0": 0.6, "without_meta": 0.61, "mlp_pretraining": 0.59, "metaheac": 0.7}
    rng = np.random.default_rng(0)
    of = of_means(
        **{name: mean + rng.random(4) / 100 for name, mean in rows.items()},
        prior=(0.5, 0.5, 0.5, 0.51),
        oracle=(0.9, 0.9, 0.9, 0.9),
    )
    tables = tables_of(of)
    assert list(tables) == [
        *("Methods", "Primary claims", "Every pair of the networks"),
    ]
    [claim] = tables["Primary claims"].rows
    assert claim[:2] == ["metaheac", "without_meta"]
    assert len(tables["Every pair of the networks"].rows) == 6


def test_a_report_has_its_files_and_shows_its_table(tmp_path, capsys):
    gone = {"lr": result("LR", [], ((7, "3 candidates"),))}
    report.write(tmp_path, comparison([gone]), ["a small world"])
    assert {path.name for path in tmp_path.iterdir()} == set(report.OUTPUTS)
    told = capsys.readouterr().out
    for text in (told, (tmp_path / "report.md").read_text()):
        assert "campaign 7 could not be judged: 3 candidates" in text
        assert "a small world" in text
        assert "toy [bold]" in text
    assert (tmp_path / report.BY_SEEDS).read_bytes().startswith(b"\x89PNG")
    assert load(tmp_path / report.RESULTS).label("lr") == "LR"


def test_points_by_seeds_are_of_the_same_campaigns_for_every_method():
    seeds = [4, 9, 9, 9, 1, 9, 16, 25, 9, 9, 9, 9]
    aucs = {"one": np.arange(12) / 20, "two": np.arange(12)[::-1] / 20}
    run = {
        name: result(name, [campaign(i, "small", a) | {"seeds": n} for i, (n, a) in both])
        for name, own in aucs.items()
        if (both := list(enumerate(zip(seeds, own.tolist(), strict=True))))
    }
    of = comparison([run])
    a, b = figures.binned(of, "one"), figures.binned(of, "two")
    np.testing.assert_allclose(a[:, 0], [2, 9, 9, 9, 9, 20])
    np.testing.assert_allclose(a[0, 1], (0.0 + 0.2) / 2)
    # The second method's AUC is .55 less the first's in every campaign, and so in every part.
    np.testing.assert_allclose(a[:, 1] + b[:, 1], 0.55)
