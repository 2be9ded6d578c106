"""``python -m tests.faults`` runs every trial of the promises; a table shows how many held."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[n]) for n in (1, 2)]

import jax  # noqa: E402

from faults import damages, disks, formats, kills, options, soak  # noqa: E402
from faults.scene import open_scene, tiny_world  # noqa: E402
from metaheac_jax.backend import set_cpu_flags  # noqa: E402

#: Trials of each kind.
TRIALS = {"kills": 200, "checkpoints": 150, "folders": 60, "formats": 10_000, "options": 400}
OTHERS = ("disks", "soak")


def table(tallies):
    """Markdown table: promise, trials, held."""
    lines = ["| promise | trials | held |", "|---|---:|---:|"]
    lines += [f"| {t.promise} | {t.trials:,} | {t.held:,} |" for t in tallies]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("kinds", nargs="*", help=f"some of {', '.join([*TRIALS, *OTHERS])}")
    parser.add_argument("--trials", type=float, default=1.0, help="fraction of all trials")
    chosen = parser.parse_args()
    kinds = chosen.kinds or [*TRIALS, *OTHERS]
    count = {kind: max(1, round(n * chosen.trials)) for kind, n in TRIALS.items()}
    set_cpu_flags()
    jax.config.update("jax_disable_most_optimizations", True)
    tallies = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind in kinds:
            began = time.perf_counter()
            with tiny_world(folder / "compiled"):
                scene = open_scene(folder / "scene")
                if kind == "kills":
                    tallies += kills.run(folder, count[kind])
                if kind == "checkpoints":
                    tallies.append(damages.checkpoints(folder, count[kind]))
                if kind == "folders":
                    tallies += damages.folders(scene, folder, count[kind])
                if kind == "formats":
                    tallies += formats.run(folder, list(formats.FORMATS), count[kind])
                if kind == "options":
                    tallies.append(options.run(scene, folder, count[kind]))
                if kind == "soak":
                    tallies += soak.run(folder, chosen.trials)
                if kind == "disks":
                    amounts = (0, 0.1, 0.4, 0.8, 1.3)[: max(1, round(5 * chosen.trials))]
                    tallies.append(disks.sweep(scene, folder, list(scene.tasks), amounts))
            print(f"{kind}: {time.perf_counter() - began:.0f} s", flush=True)
    print(table(tallies))
    sys.exit(any(tally.failures for tally in tallies))


if __name__ == "__main__":
    main()
