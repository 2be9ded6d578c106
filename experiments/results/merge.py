"""Puts methods of new runs into an older result file.

``python -m experiments.results.merge NEW OLD NAME...`` does so. The new runs have the same seeds,
or some of them, and judged the same campaigns.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from experiments.comparison.results import Comparison, load, store
from metaheac_jax.errors import InputError


def merged(new: Comparison, old: Comparison, names: list[str]) -> Comparison:
    """The old comparison with these methods of the new one; None where it has no run.

    Raises:
      InputError: a run is not in the old comparison, or judged other campaigns.
    """
    methods, found = dict(old.methods), dict(zip(old.seeds, old.campaigns, strict=True))
    for seed, campaigns in zip(new.seeds, new.campaigns, strict=True):
        if found.get(seed) != campaigns:
            raise InputError(f"seed {seed}: the old comparison has other campaigns, or no such run")
    for name in names:
        runs = dict(zip(new.seeds, new.methods[name]["runs"], strict=True))
        methods[name] = {**new.methods[name], "runs": [runs.get(seed) for seed in old.seeds]}
    return replace(old, methods=methods)


if __name__ == "__main__":
    source, target, *chosen = sys.argv[1:]
    store(Path(target), merged(load(Path(source)), load(Path(target)), chosen))
