"""``python -m tests.faults`` runs every trial of the promises; a table shows how many held."""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[n]) for n in (1, 2)]

from faults import flips, forgeries, kills, removals, spellings  # noqa: E402
from faults.scene import TASKS, Scene  # noqa: E402

#: Trials of each kind: of each task, of each kind of file, or in all.
TRIALS = {"kills": 2, "flips": 6, "writers": 1, "removals": 20}
TRIALS |= {"spellings": 120, "forgetting": 7, "forgeries": 10, "tables": 1, "stops": 3}


def run(kind, scene, trials):
    """The tallies of a kind of trials."""
    if kind == "kills":
        return [tally for name in TASKS for tally in kills.kills(scene, name, trials)]
    if kind == "writers":
        return [kills.two_writers(scene, TASKS, trials)]
    if kind == "removals":
        return removals.removals(scene, trials)
    if kind == "forgeries":
        return [*forgeries.forged(scene, trials)]
    if kind == "tables":
        return [forgeries.hostile(scene)]
    if kind == "stops":
        return [forgeries.stopped(scene, trials)]
    if kind in ("spellings", "forgetting"):
        return getattr(spellings, kind)(scene.folder, trials)
    tallies = [flips.inputs(scene, name, trials) for name in ("DATA", "MODEL")]
    return [*tallies, flips.trainings(scene, trials), flips.exports(scene, trials)]


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"some of {', '.join(TRIALS)}")
    parser.add_argument("--trials", type=float, default=1.0, help="how many times as many trials")
    chosen, tallies = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as name:
        scene = Scene(Path(name) / "scene").make()
        for kind in chosen.kinds or TRIALS:
            tallies += run(kind, scene, max(1, round(TRIALS[kind] * chosen.trials)))
    print("| promise | trials | held |", "|---|---:|---:|", sep="\n")
    for tally in tallies:
        print(f"| {tally.promise} | {tally.trials:,} | {tally.held:,} |")
    sys.exit(any(tally.failures for tally in tallies))


if __name__ == "__main__":
    main()
