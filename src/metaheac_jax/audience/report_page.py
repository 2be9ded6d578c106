"""The report on an audience as one self-contained HTML file."""

from __future__ import annotations

import base64

from metaheac_jax.audience.figures import curve_figure
from metaheac_jax.audience.held_out_seeds import MIN_SEEDS_TO_HOLD_OUT
from metaheac_jax.audience.markup import Html, element, page, table_element
from metaheac_jax.audience.report import AudienceReport
from metaheac_jax.audience.seed_check import MANY_SEEDS, SeedCheck
from metaheac_jax.audience.tables import (
    TextTable,
    base_rate_note,
    curve_table,
    importance_table,
    others_table,
    sensitive_table,
    traits_table,
)
from metaheac_jax.audience.traits import FAIR, MIN_CELL

_NEEDED = f"{MIN_SEEDS_TO_HOLD_OUT} seeds that are neither from feedback nor excluded"
TOO_FEW = f"This needs {_NEEDED}, to hold some of them out."
STYLE = """
body { margin: 0; font: 1rem/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff }
main { max-width: 60rem; margin: 0 auto; padding: 1rem }
h1, h2 { line-height: 1.2; overflow-wrap: anywhere }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc }
figure { margin: 1rem 0 }
img { width: 100%; max-width: 40rem }
figcaption, .note { color: #4a4a4a; max-width: 45rem }
.scroll { overflow-x: auto; margin: 1rem 0 }
table { border-collapse: collapse; font-size: .9rem }
caption { text-align: left; font-weight: 600; padding-bottom: .3rem; max-width: calc(100vw - 2rem) }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #ddd }
th { font-weight: 400 }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
thead th { font-weight: 600; vertical-align: bottom }
thead .number { white-space: normal }
"""


def html_report(report: AudienceReport) -> str:
    """The report as an HTML page without external resources.

    Raises:
      InputError: there is a curve to draw, and Matplotlib is not installed.
    """
    return page(
        report.title,
        STYLE,
        element("h1", report.title),
        element(
            "p",
            f"{report.size:,} users, of {report.num_candidates:,} candidates among the "
            f"{report.num_users:,} users of {report.data}. The last one has a score of "
            f"{report.edge:.3f}.",
        ),
        *_seeds_section(report.seeds),
        *_size_section(report),
        *_traits_section(report),
        *_use_section(report),
        *_sensitive_section(report),
        *_overlap_section(report),
    )


def _seeds_section(seeds: SeedCheck) -> list[Html]:
    rows = [
        ["given", f"{seeds.given:,}", ""],
        ["distinct", f"{seeds.distinct:,}", ""],
        ["users of the data", f"{seeds.found:,}", seeds.match_percent],
        *([["left out, such as opt-outs", f"{seeds.excluded:,}", ""]] if seeds.excluded else []),
        *([["from feedback", f"{seeds.from_feedback:,}", ""]] if seeds.from_feedback else []),
        ["learned from", f"{seeds.used:,}", ""],
    ]
    table = TextTable("User ids given as seeds", ["seeds", "number", "of distinct"], rows)
    section = [element("h2", "Seeds"), table_element(table)]
    if seeds.used < MANY_SEEDS:
        section.append(_note(f"With fewer than {MANY_SEEDS:,} seeds an audience is less reliable."))
    return section


def _size_section(report: AudienceReport) -> list[Html]:
    section = [element("h2", "Audience size")]
    if not report.curve:
        return [*section, _note(TOO_FEW)]
    picture = base64.b64encode(curve_figure(report.curve, format="svg")).decode()
    found = ", ".join(f"{p.percent:g}% finds {p.recall.value:.0%}" for p in report.curve)
    alt = (
        "Line chart of the fraction of held-out seeds found over the size of the audience, on a "
        f"logarithmic axis. Of the pool, {found}."
    )
    return [
        *section,
        element(
            "figure",
            element("img", src=f"data:image/svg+xml;base64,{picture}", alt=alt),
            element("figcaption", "Held-out seeds found by audiences of several sizes"),
        ),
        table_element(curve_table(report.curve)),
        _note(
            "Some of the seeds were held out of learning. Seeds from feedback were not, since an "
            "earlier audience found them. Recall is the fraction of the held-out seeds that are in "
            "an audience of this size; lift is recall divided by that of a random audience. Held-"
            "out seeds are ranked among users of the pool that the model has not learned from. "
            f"{base_rate_note(report.base_rate)} Intervals are 95% intervals; those of recall, "
            "lift and conversions cover which seeds were held out, those of the score which users "
            "are in the pool."
        ),
        *_seen_note(report),
    ]


def _traits_section(report: AudienceReport) -> list[Html]:
    return [
        element("h2", "What characterises it"),
        table_element(traits_table(report.traits)),
        _note(
            "Fractions of the users who have a value. The pool is the candidates. Lift is the "
            f"audience's fraction divided by the pool's. Values of fewer than {MIN_CELL} users are "
            f"left out; for fewer than {MIN_CELL} seeds the table says only that they are few."
        ),
    ]


def _use_section(report: AudienceReport) -> list[Html]:
    section = [element("h2", "What the model used")]
    if report.used is None:
        return [*section, _note(TOO_FEW)]
    return [
        *section,
        table_element(importance_table(report.used)),
        _note(
            "How much worse the model distinguishes held-out seeds from other users when a "
            "field's values are shuffled among users. A field that another one can replace has a "
            "small drop."
        ),
        *_seen_note(report),
    ]


def _sensitive_section(report: AudienceReport) -> list[Html]:
    section = [element("h2", "Sensitive fields")]
    if not report.sensitive:
        return [*section, _note("The data has none, or too few users have each value.")]
    return [
        *section,
        table_element(sensitive_table(report.sensitive)),
        _note(
            "The model does not see these fields, but other fields may be correlated with them. "
            "The pool is the candidates. The ratio is the audience's fraction divided by the "
            "pool's. The adverse impact is the fraction of the value's candidates who are in the "
            "audience, divided by that of the field's most selected value. Below "
            f"{FAIR[0]} (four-fifths rule) a value is flagged as under, with a ratio above "
            f"{FAIR[1]} as over. At most: few users of the audience have the value, or the value "
            "that may be the most selected."
        ),
    ]


def _overlap_section(report: AudienceReport) -> list[Html]:
    section = [element("h2", "Overlap with other audiences")]
    if report.overlap is None:
        return [*section, _note("No other audience was given.")]
    return [*section, table_element(others_table(report.overlap))]


def _seen_note(report: AudienceReport) -> list[Html]:
    return [_note(f"Note: {report.seen}.")] if report.seen else []


def _note(text: str) -> Html:
    return element("p", text, class_="note")
