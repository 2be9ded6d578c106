"""Results written by hand: two runs of two methods, and a comparison of them."""

from experiments.comparison.results import Comparison, in_columns

ABOUT = {"data": "toy", "train_campaigns": 60, "test_campaigns": 40, "preset": "paper"}


def campaign(number, group, auc):
    """A judged campaign; precision and recall differ from its AUC."""
    return {
        "campaign": number,
        "seeds": 10 * number,
        "group": group,
        "auc": auc,
        "precision": auc / 2,
        "recall": auc / 4,
    }


def result(label, campaigns, left_out=()):
    gone = [{"campaign": number, "why": why} for number, why in left_out]
    return {"label": label, "campaigns": campaigns, "left_out": gone}


def runs():
    """Two runs of two methods: three small campaigns and a large one, then one small campaign."""
    aucs = {"lr": (0.5, 0.6, 0.7, 0.9, 0.8), "metaheac": (1.0, 1.0, 1.0, 1.0, 0.0)}
    found = [{}, {}]
    for name, (*first, second) in aucs.items():
        groups = ("small", "small", "small", "large")
        judged = [campaign(i + 1, g, a) for i, (g, a) in enumerate(zip(groups, first, strict=True))]
        found[0][name] = result(name.upper(), judged)
        found[1][name] = result(
            name.upper(), [campaign(5, "small", second)], ((7, "3 candidates"),)
        )
    return found


def comparison(results, **more):
    campaigns, methods = in_columns(results)
    given = {"about": {**ABOUT, "commands": ["python -m toy"]}, "independent_runs": True, **more}
    return Comparison(
        "toy [bold]", list(range(len(results))), campaigns=campaigns, methods=methods, **given
    )


def of_means(*, independent_runs=True, **rows):
    """A comparison in which a method has these AUCs, one campaign of a small set per run."""
    results = [
        {
            name.replace("_", "-"): result(name, [campaign(1, "small", float(row[run]))])
            for name, row in rows.items()
        }
        for run in range(len(next(iter(rows.values()))))
    ]
    return comparison(results, independent_runs=independent_runs)
