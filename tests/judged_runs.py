"""Results written by hand: two runs of two methods, and a comparison of them."""

from experiments.comparison.results import Comparison


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


def comparison(results, **more):
    return Comparison("toy [bold]: two runs", list(range(len(results))), results, **more)


class FirstTwo:
    """Replaces t-SNE, which takes seconds: takes the first two numbers of each campaign."""

    def __init__(self, *, random_state, **_):
        assert isinstance(random_state, int)  # else figures would not be reproducible

    def fit_transform(self, points):
        return points[:, :2]
