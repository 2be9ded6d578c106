"""``metaheac evaluate``: how good a model's audiences are, and how an audience has done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from metaheac_jax.cli import terminal
from metaheac_jax.cli.terminal import option
from metaheac_jax.errors import InputError, about
from metaheac_jax.progress import Progress

if TYPE_CHECKING:
    from metaheac_jax.audience.evaluation import Evaluation
    from metaheac_jax.data.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Options:
    """Judges a model on campaigns that it was not trained on, or an audience on its answers."""

    #: Folder of a general model, from fit, best with --leave-out.
    model: Annotated[Path, Positional, option("MODEL")]
    #: Folder of the data, from prepare.
    data: Annotated[Path, Positional, option("DATA")]
    #: Ids of the campaigns to judge; by default, all that the model has not seen. Each is
    #: customised from its examples of stage 1, as expand does it, and its users of stage 2 are
    #: ranked.
    campaigns: Annotated[tuple[str, ...], option("ID...")] = ()
    #: Judge this audience instead, from expand, on rows that were added later: how many of its
    #: users converted, by tenths.
    audience: Annotated[Path | None, option("FILE")] = None
    #: Results of another model, from --out: the differences on the campaigns that both judged.
    against: Annotated[Path | None, option("FILE")] = None
    #: Random seed, as for expand.
    seed: Annotated[int, option("N")] = 0
    #: File to write all results to: .json.
    out: Annotated[Path | None, option("FILE")] = None


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_minimum("--seed", options.seed, 0)
    if options.audience is not None and (options.campaigns or options.against):
        raise InputError("--audience: not with --campaigns or --against; omit them")
    inputs = (options.audience, options.against)
    if options.out is not None:
        terminal.check_output("--out", options.out, *inputs, endings=(".json",))
    screen = terminal.screen()
    terminal.keep_compiled()
    with terminal.progress_display(screen) as progress:
        from metaheac_jax.audience.evaluation import Evaluation
        from metaheac_jax.audience.outcome import audience_outcome
        from metaheac_jax.data.storage import open_dataset
        from metaheac_jax.files import write_json

        data = open_dataset(options.data, progress=progress)
        if options.audience is not None:
            result = audience_outcome(options.audience, data)
        else:
            result = _judge(options, data, progress)
        if options.out is not None:
            write_json(options.out, result.to_json())
    for table in result.tables():
        terminal.print_lines(screen, "")
        terminal.print_table(screen, table)
    if isinstance(result, Evaluation):
        terminal.print_lines(screen, *_notes(result))
    if options.out is not None:
        terminal.print_lines(screen, f"{options.out}: written")


def _notes(result: Evaluation) -> Iterator[str]:
    if result.num_known:
        count = f"{result.num_known:,} of these campaigns"
        yield f"note: the model has seen {count}, so the results may be too good"
    reasons = Counter(own["why"] for own in result.left_out)
    for why, count in reasons.most_common():
        yield f"note: {terminal.counted(count, 'campaign')} not judged: {why}"


def _judge(options: Options, data: Dataset, progress: Progress) -> Evaluation:
    """Judges the model, and compares it with the other one if there is one."""
    from metaheac_jax.audience.evaluation import evaluate
    from metaheac_jax.files import read_json
    from metaheac_jax.model import load

    others = None if options.against is None else read_json(options.against)
    general = load(options.model, progress=progress)
    campaigns = options.campaigns or None
    result = evaluate(general, data, campaigns=campaigns, seed=options.seed, progress=progress)
    if not result.campaigns:
        own = result.left_out[0]
        raise InputError(
            f"campaign {own['campaign']}: cannot be judged: {own['why']}; give it examples of "
            "stage 2, or judge an audience of it with --audience"
        )
    if options.against is None:
        return result
    with about(options.against):
        return result.compare(others)
