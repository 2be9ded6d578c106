"""Tables of a comparison on results written by hand."""

import pytest
from judged_runs import campaign, comparison, result, runs

from experiments.comparison.published import PUBLISHED
from experiments.comparison.results import MEASURES, summarise
from experiments.comparison.tables import build_tables, in_order, paper_rows, table_rows
from metaheac_jax.methods import METHODS, method_named


def tables_of(results, **more):
    given = comparison(results, **more)
    return {table.title: table for table in build_tables(given, summarise(given.runs))}


def many(num_campaigns=6, num_runs=1, **aucs):
    """Runs in which a method's AUC is nearly the same in all campaigns."""
    wobble = (0.0, 0.001, -0.002, 0.003, 0.002, -0.001)
    return [
        {
            name.replace("_", "-"): result(
                name.upper(),
                [
                    campaign(c, "small", auc + (1 + i) * wobble[c - 1] + run * (1 + i) / 1000)
                    for c in range(1, num_campaigns + 1)
                ],
                small=auc,
            )
            for i, (name, auc) in enumerate(aucs.items())
        }
        for run in range(num_runs)
    ]


def cells(table, name):
    """A row by column: the first of the method, and of equal headers the first."""
    row = next(row for row in table.rows if row[0] == name)
    return dict(reversed(list(zip(table.header, row, strict=True))))


def test_rows_say_means_and_deviations_where_there_are_several_runs():
    header, rows = table_rows(summarise(runs()), 2)
    assert header[:5] == ["method", "2 small: AUC", "P@5%", "R@5%", "pooled AUC"]
    assert header[5] == "0.5 large: AUC"
    assert rows[0][:3] == ["LR", "0.7000 ±0.1414", "0.3500 ±0.0707"]
    assert rows[1] == [
        *("MetaHeac", "0.5000 ±0.7071", "0.2500 ±0.3536", "0.1250 ±0.1768", "0.4500 ±0.2828"),
        *("-", "-", "-", "-"),
    ]
    header, rows = table_rows(summarise(runs()[:1]), 1)
    assert header[1] == "3 small: AUC"
    assert rows[0][:5] == ["LR", "0.6000", "0.3000", "0.1500", "0.5500"]


def test_the_papers_figures_stand_in_the_right_columns_and_say_whose_they_are():
    labels = {
        "lr": "LR",
        "alpha-0": "not in the paper",
        "without-meta": "w/o Meta",
        "metaheac": "MetaHeac",
    }
    header, _ = table_rows(summarise(runs()), 2)
    rows = {row[0]: row for row in paper_rows(labels, PUBLISHED["tencent"])}
    assert list(rows) == ["LR [paper]", "w/o Meta [paper]", "MetaHeac [paper]"]
    # Table 2, MetaHeac: AUC, P@5%, R@5% of small sets, then of large ones; no pooled AUC.
    assert rows["MetaHeac [paper]"][1:] == [
        *("0.7239", "0.2489", "0.2554", "-"),
        *("0.7142", "0.2244", "0.2356", "-"),
    ]
    assert rows["w/o Meta [paper]"][3] == "-"  # its recall was not published
    assert all(len(row) == len(header) for row in rows.values())
    assert [i for i, cell in enumerate(header) if cell == MEASURES["pooled_auc"]] == [4, 8]


def test_rows_are_in_the_papers_order():
    names = ("metaheac", "oracle", "alpha-0", "mmoe", "seed-aware", "lr", "mlp-one-stage")
    run = {name: result(name, [campaign(1, "small", 0.6)], small=0.6) for name in names}
    order = ["lr", "mlp-one-stage", "mmoe", "alpha-0", "metaheac", "seed-aware", "oracle"]
    assert in_order(run) == order
    assert [row[0] for row in tables_of([run])["Methods"].rows] == order


def test_the_ablations_have_a_table_of_their_own():
    results = runs()
    for run in results:
        run["without-he"] = run["lr"] | {"label": "MetaHeac w/o HE"}
        run["oracle"] = result("oracle", [campaign(1, "small", 0.9)], small=0.9)
    tables = tables_of(results, published="tencent")
    names = {title: [row[0] for row in table.rows] for title, table in tables.items()}
    assert names["Methods"] == ["LR", "MetaHeac", "oracle", "LR [paper]", "MetaHeac [paper]"]
    assert names["Ablation"][:2] == ["MetaHeac", "MetaHeac w/o HE"]
    assert "MetaHeac w/o HE [paper]" in names["Ablation"]
    # LR's AUC is .6 and .8, the oracle's .9: .25 and .75 of the way.
    (share,) = (t for title, t in tables.items() if "oracle" in title)
    assert share.rows[0][:2] == ["LR", "0.5000 ±0.3536"]
    assert share.rows[-1][:3] == ["oracle", "1.0000 ±0.0000", "-"]


def test_an_ablation_alone_has_its_own_table_and_no_other():
    tables = tables_of([{"without-hc": runs()[0]["metaheac"]}])
    assert set(tables) == {"Ablation"}


# Claims -----------------------------------------------------------------------------------------


def test_one_run_has_errors_over_its_campaigns_and_no_tests():
    tables = tables_of(many(mmoe=0.6, metaheac=0.7))
    assert cells(tables["Methods"], "METAHEAC")["6 small: AUC"] == "0.7010"
    note = tables["Methods"].note
    assert "Holm" not in "".join(table.note for table in tables.values())
    assert "Errors are over the campaigns of one world" in note
    assert "no tests; these need 3 worlds" in note
    claim = cells(tables["Against the best other row"], "METAHEAC")
    assert (claim["largest p"], claim["p (Holm)"]) == ("-", "-")
    assert claim["best rival"] == "MMOE"
    assert claim["improvement"] == "+16.74%"
    assert claim["difference"] == "+0.1005 ±0.0008"


def test_a_row_that_is_higher_takes_the_star_away_in_its_own_table_only():
    tables = tables_of(many(num_runs=3, mmoe=0.6, prior=0.8, without_hc=0.5, metaheac=0.7))
    assert cells(tables["Methods"], "METAHEAC")["6 small: AUC"] == "0.7060 ±0.0040"
    assert cells(tables["Ablation"], "METAHEAC")["6 small: AUC"] == "0.7060 ±0.0040**"
    claim = cells(tables["Against the best other row"], "METAHEAC")
    assert (claim["best rival"], claim["largest p"]) == ("PRIOR", "1.0000")


@pytest.mark.parametrize("independent", [True, False])
def test_several_runs_have_the_test_that_the_data_asks_for(independent):
    about = {"train_campaigns": 60, "test_campaigns": 40, "preset": "paper"}
    results = many(num_runs=3, mmoe=0.6, metaheac=0.7)
    tables = tables_of(results, about=about, independent_runs=independent)
    note = tables["Methods"].note
    assert ("Nadeau and Bengio" in note) == (not independent)
    claim = cells(tables["Against the best other row"], "METAHEAC")
    # The differences are .1005, .1015 and .1025, or .001 apart.
    width = 0.001 * (1 / 3 if independent else 1 / 3 + 40 / 54) ** 0.5
    assert claim["difference"].endswith(f" ±{width:.4f}")


def test_the_primary_claims_and_every_pair_are_printed():
    rows = {"alpha_0": 0.6, "without_meta": 0.61, "mlp_pretraining": 0.62, "metaheac": 0.7}
    tables = tables_of(many(num_runs=3, **rows))
    (title,) = (title for title in tables if title.startswith("Primary claims"))
    claim = cells(tables[title], "METAHEAC")
    assert claim["best rival"] == "MLP_PRETRAINING"
    assert claim["rivals"] == "ALPHA_0, WITHOUT_META, MLP_PRETRAINING"
    assert (claim["seed sets"], claim["measure"]) == ("small", "AUC")
    assert claim["mean"].endswith("*")
    pairs = tables["Every pair of the networks"]
    assert len(pairs.rows) == 6
    first = dict(zip(pairs.header, pairs.rows[0], strict=True))
    assert (first["method"], first["minus"]) == ("METAHEAC", "ALPHA_0")
    assert first["small: difference in AUC"].startswith("+0.1")
    assert first["large: difference in AUC"] == "-"


def test_a_gain_by_customising_has_its_error_and_its_test():
    run = many(lr=0.55, metaheac=0.7)[0]
    for place, of in enumerate(run["metaheac"]["campaigns"]):
        of["auc_before"] = of["auc"] - 0.02 - 0.001 * (-1) ** place
    table = tables_of([run])["AUC before and after customising"]
    assert [row[0] for row in table.rows] == ["METAHEAC"]  # LR has no general model
    # The gains are .019 and .021, three times each.
    assert table.rows[0][1:] == ["0.6810", "0.7010", "+0.0200 ±0.0004", "-", *"----"]


def test_methods_are_compared_with_each_score_that_is_the_same_for_all_campaigns():
    results = many(num_runs=3, lr=0.55, prior=0.6, metaheac=0.7, likes=0.5)
    results = [of | {"oracle": of["likes"]} for of in results]
    tables = tables_of(results)
    found = {title: table for title, table in tables.items() if title.startswith("Against P")}
    assert list(found) == ["Against PRIOR: AUC", "Against PRIOR: P@5%"]
    assert [row[0] for row in found["Against PRIOR: AUC"].rows] == ["LR", "METAHEAC"]
    assert [row[0] for row in tables["Against LIKES: P@5%"].rows] == ["LR", "PRIOR", "METAHEAC"]
    first = cells(found["Against PRIOR: AUC"], "METAHEAC")
    assert first["small: difference in AUC"].startswith("+0.1")
    assert cells(found["Against PRIOR: P@5%"], "METAHEAC")["small: difference in P@5%"].startswith(
        "+0.05"
    )


# Training ---------------------------------------------------------------------------------------


def test_training_has_steps_seconds_and_the_cost_of_a_step():
    results = many(num_runs=2, lr=0.55, metaheac=0.7)
    for run, (steps, best) in zip(results, ((4000, 3000), (2000, 1000)), strict=True):
        run["lr"]["seconds"] = {"offline": 0.5, "customise": 2.0, "score": 1.0}
        run["metaheac"]["seconds"] = {"offline": 30.0, "customise": 1200.0, "score": 1.0}
        offline = {"steps": steps, "best_step": best, "ceiling": 9000, "step_ms": steps / 300}
        run["metaheac"]["offline"] = offline
    table = tables_of(results)["Training"]
    assert cells(table, "LR") == {
        "method": "LR",
        **dict.fromkeys(("offline steps", "best step", "ceiling", "ms per step"), "-"),
        "offline s": "0.5",
        "customise s": "2.0",
        "score s": "1.0",
    }
    row = cells(table, "METAHEAC")
    assert (row["offline steps"], row["best step"], row["ceiling"]) == ("3,000", "2,000", "9,000")
    assert (row["ms per step"], row["customise s"]) == ("10.0", "1,200.0")
    for run in results:  # as an ensemble, which has no steps but those of its members
        run["metaheac"]["offline"] = {"best_step": 7000, "curve": [[7000, 0.2, 0.7]]}
    row = cells(tables_of(results)["Training"], "METAHEAC")
    assert (row["offline steps"], row["best step"]) == ("-", "-")


def test_no_method_is_called_ours():
    assert not any("ours" in method_named(name).label.split(", ") for name in METHODS)
