"""Renders the pages and figures that show committed results; see the package.

``python -m experiments.results`` writes them; with ``--check`` it names those that differ from
what it would write, and exits with 1.
"""

from __future__ import annotations

import functools
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from scipy import stats

from experiments import feedback, meta_learning
from experiments.comparison import significance
from experiments.comparison.figures import figure_by_seeds
from experiments.comparison.results import Comparison, load
from experiments.comparison.significance import Difference
from experiments.live_week import mean_lifts
from experiments.throughput.compiled import Figures

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
#: Pages by template. A part of README.md is rendered, between two comments.
PAGES = {
    "results.md.jinja": "docs/results.md",
    "throughput.md.jinja": "experiments/throughput/README.md",
    "readme.md.jinja": "README.md",
}
FIGURE = "docs/auc_by_seeds.png"
#: The methods of the figure by file; all files have the same worlds.
IN_FIGURE = {
    "worlds-2.8-million": ("lr", "metaheac-lengths"),
    "worlds-2.8-million-trees": ("pooled-trees",),
    "worlds-2.8-million-prior": ("learned-prior", "oracle of users, with seeds"),
}
_PART = re.compile(r"(?<=<!-- python -m experiments.results -->\n).*?(?=<!-- end -->)", re.DOTALL)


@functools.cache
def comparison(name: str) -> Comparison:
    """The comparison in a file of this folder."""
    return load(FOLDER / f"{name}.json.gz")


def plain(name: str) -> Any:
    """The content of a JSON file of this folder."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def number(value: float, digits: int = 4) -> str:
    """A fraction without its leading zero; "" for NaN."""
    return "" if math.isnan(value) else f"{value:.{digits}f}".replace("0.", ".", 1)


def auc(name: str, method: str, group: str, digits: int = 4) -> str:
    """A method's mean AUC; "" if the comparison does not have the method."""
    of = comparison(name)
    if method not in of.methods:
        return ""
    return number(of.values(method, group, "auc").mean, digits)


def told(of: Difference) -> str:
    """A difference with its standard error, such as "+.008 ±.001"."""
    error = "" if of.error is None else f" ±{number(of.error, 3)}"
    return signed(of.mean) + error


def signed(value: float) -> str:
    """A difference, such as "+.008"."""
    return f"{'+' if value >= 0 else '-'}{number(abs(value), 3)}"


def difference(name: str, first: str, second: str, group: str) -> str:
    """One method minus another, with its standard error."""
    of = comparison(name)
    one, other = (of.values(method, group, "auc") for method in (first, second))
    return told(significance.difference(one, other, of.overlap))


def both(name: str, first: str, second: str) -> str:
    """One method minus another on small and on large seed sets."""
    parts = (difference(name, first, second, group) for group in ("small", "large"))
    return ", ".join(parts)


def between(name: str, first: str, other: str, second: str, group: str) -> str:
    """A method of one comparison minus one of another, on the runs and campaigns of both."""
    ours, theirs = comparison(name), comparison(other)
    common = [seed for seed in ours.seeds if seed in theirs.seeds]
    values = []
    for of, method in ((ours, first), (theirs, second)):
        measured = of.values(method, group, "auc").campaigns
        values.append([measured[of.seeds.index(seed)] for seed in common])
    mine, its = (significance.Measured(tuple(own)) for own in values)
    return told(significance.difference(mine, its, ours.overlap))


def minutes(name: str, method: str) -> str:
    """The minutes that a method's training took, the mean over runs."""
    return f"{(comparison(name).seconds(method, 'offline') or 0) / 60:.0f}"


def lift(test: str, measure: int = 1) -> str:
    """The range over the applications of the mean lifts of a test, of conversions by default."""
    tests = [own for own in plain("weeks")["tests"] if own["test"] == test]
    lifts = [100 * mean_lifts(np.array([*own["lifts"].values()]))[measure, 0] for own in tests]
    return f"{min(lifts):.0f} to {max(lifts):.0f}%"


def fed_gain(method: str) -> str:
    """What feedback gains in the conversions of a second audience, with its interval."""
    return feedback.summary(plain("feedback")["conversions"][method])[-1]


def by_seeds(kind: str, method: str) -> str:
    """The cells of a method's mean AUC by number of seeds."""
    runs = plain("meta_learning")["results"][kind]
    means = meta_learning.by_run(runs, method).mean(axis=0)
    return " | ".join(number(own) for own in means if not np.isnan(own))


def apart_by_seeds(kind: str, first: str, second: str) -> str:
    """The 95% intervals of one method minus another by number of seeds; over two worlds none."""
    runs = plain("meta_learning")["results"][kind]
    ours, theirs = (meta_learning.by_run(runs, name).T for name in (first, second))
    overlap, cells = 2 / 3 if kind == "movielens" else 0.0, []  # 40% of a split's campaigns are new
    for one, other in zip(ours, theirs, strict=True):
        of = significance.over_runs(one, other, overlap)
        if np.isnan(of.mean):
            continue
        half = (of.error or 0) * float(stats.t.ppf(0.975, len(runs) - 1))
        ends = of.mean - half, of.mean + half
        cells.append(" to ".join(map(signed, ends)) if len(runs) > 2 else signed(of.mean))
    return " | ".join(cells)


def of_rivals() -> list[tuple[str, dict[str, Any]]]:
    """The records of the meta-step's rivals by network and inner steps, and then by program."""
    found: dict[str, dict[str, Any]] = {}
    for record in plain("throughput")["rivals"]["records"]:
        size = f"{record['network']}, {record['inner_steps']}"
        found.setdefault(size, {})[record["program"]] = record
    return list(found.items())


def of_stages() -> dict[str, dict[int, float]]:
    """Seconds of each stage by table rows."""
    found: dict[str, dict[int, float]] = {}
    for record in plain("throughput")["stages"]["records"]:
        stage = ", ".join(filter(None, (record["stage"], record["way"])))
        found.setdefault(stage, {})[record["table_rows"]] = record["median_seconds"]
    return found


def render() -> dict[Path, str]:
    """The text of every page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    known = (
        auc,
        difference,
        both,
        between,
        minutes,
        lift,
        comparison,
        fed_gain,
        by_seeds,
        apart_by_seeds,
        plain,
    )
    own = {function.__name__: function for function in known}
    texts, speed = {}, plain("throughput")
    for template, page in PAGES.items():
        text = environment.get_template(template).render(
            **own,
            speed=speed,
            rivals=of_rivals(),
            **of_accelerators(speed["accelerators"]),
            stages=of_stages(),
        )
        path = ROOT / page
        if page == "README.md":
            text = _PART.sub(lambda _, part=text: part, path.read_text())
        texts[path] = text
    return texts


def of_accelerators(found: dict[str, Any]) -> dict[str, Any]:
    """What compilers say, for the page on throughput."""
    records = [Figures(**own) for own in found["records"]]
    single = [own for own in records if own.mesh == "1x1"]
    find = {(own.target, own.program, own.table_rows): own for own in single}
    options = {(own["target"], own["program"]): Figures(**own) for own in found["options"]}

    def option(name: str) -> str:
        tpu, gpu = (options.get((target, name)) for target in ("v5e:1x1", "h100"))
        if tpu is None or gpu is None:
            return "-"
        return f"{tpu.megacycles:.2f}; {tpu.temporary_mb:.3g}, {gpu.temporary_mb:.3g}"

    return {
        "compilers": ", ".join(f"{name} {own}" for name, own in found["provenance"].items()),
        "accelerated": [
            (own, find["v5e:1x1", own["program"], own["table_rows"]]) for own in found["before"]
        ],
        "compiled": [own for own in single if own.table_rows == 334_494],
        "meta": find["v5e:1x1", "meta-step", 334_494],
        "score": find["v5e:1x1", "score", 334_494],
        "h100": find["h100", "meta-step", 3_344_940],
        "meshes": [own for own in records if own.mesh != "1x1"],
        "option": option,
    }


def main() -> int:
    """Writes the pages and the figure, or compares them."""
    pages = render()
    if "--check" in sys.argv[1:]:
        differ = [path for path, text in pages.items() if path.read_text() != text]
        print("\n".join(f"{path}: run python -m experiments.results" for path in differ))
        return int(bool(differ))
    for path, text in pages.items():
        path.write_text(text)
    of, *_ = each = [comparison(name) for name in IN_FIGURE]
    assert all(own.campaigns == of.campaigns for own in each)
    pairs = zip(each, IN_FIGURE.values(), strict=True)
    methods = {name: own.methods[name] for own, names in pairs for name in names}
    title = f"{len(of.seeds)} simulated worlds of {of.about['users']:,} users"
    figure_by_seeds(replace(of, methods=methods), ROOT / FIGURE, title)
    return 0


if __name__ == "__main__":
    sys.exit(main())
