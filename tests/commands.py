"""Runs commands in this process, since starting jax takes longer than a tiny command."""

import dataclasses
import json
import re
import sys
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from metaheac_jax import backend
from metaheac_jax.cli import simulate, terminal
from metaheac_jax.data.simulation import world
from metaheac_jax.data.simulation.shapes import TENCENT_WORLD
from metaheac_jax.errors import printable
from metaheac_jax.methods import METHODS, offline
from metaheac_jax.training.checkpoint import Checkpoints

#: The fewest kinds of campaigns that a simulation accepts.
FEW_KINDS = dict.fromkeys(
    ("advertisers", "campaign_ids", "sizes", "categories", "products", "product_types"), 4
)
#: Two fields of one slot, with few and with many values, and two fields of lists.
FEW_FIELDS = ("gender", "LBS", "interest1", "kw1")
#: More seeds, and more examples in stage 2, than the Tencent data has.
MANY_SEEDS = {
    "rate_min": 0.084,
    "rate_mean": 0.091,
    "rate_sd": 0.003,
    "rate_max": 0.105,
    "pool_fraction": 0.5,
    "spread": 0.6,
}


def exit_code(start, *arguments):
    """The exit code of a command; ``start`` parses ``sys.argv`` and never returns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        patch.setattr(warnings, "showwarning", None)  # a command sets it
        patch.setattr(backend, "check_backend", lambda *_: None)  # it compiles
        with pytest.raises(SystemExit) as caught:
            start()
    return caught.value.code


def module(module):
    """A function that starts a module with Options and main, as ``python -m`` does."""
    return lambda: terminal.command(module.Options, module.main, prog=module.__name__)


def succeeds(start, *arguments):
    """Runs a command that must succeed."""
    assert exit_code(start, *arguments) in (None, 0)


def interrupted(start, *arguments):
    """Runs a command that must exit as interrupted."""
    assert exit_code(start, *arguments) == 130


def refuses(capsys, start, *arguments, words, code=2):
    """Runs a command that must exit with this code and print one line with all the words."""
    capsys.readouterr()
    assert exit_code(start, *arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert printable(error.rstrip()) == error.rstrip()
    for word in words:
        assert str(word) in error


def contents(directory: Path) -> set[str]:
    """Names in a folder; empty if it does not exist."""
    return {path.name for path in directory.iterdir()} if directory.exists() else set()


def explanations(capsys, start, options, *arguments):
    """What the help of a command says on each option and positional argument, by name.

    Each field of the dataclass ``options`` must have an entry of at least five words.
    """
    assert exit_code(start, *arguments, "--help") == 0
    text = capsys.readouterr().out.replace("│", " ")
    name = r"--?[a-z][a-z-]*|\[?[A-Z|]+\]?"
    found = re.findall(rf"^  ({name})(?=[\s,])(.*?)(?=^  (?:{name})\s|^ ?\S|\Z)", text, re.S | re.M)
    entries = {option: entry for option, entry in found if option != "-h"}
    assert len(entries) == len(dataclasses.fields(options))
    for option, entry in entries.items():
        words = re.findall(r"(?<!\S)[A-Za-z]+\b", entry.partition("(default")[0])
        assert len(words) >= 5, (option, entry)


def write_few_fields(schema: Path, whole: dict) -> Path:
    """Writes a schema with few user fields, since programs with many take long to compile."""
    user = [field for field in whole["user"] if field["name"] in FEW_FIELDS]
    schema.write_text(json.dumps(whole | {"user": user}))
    return schema


@contextmanager
def small_simulation(campaigns=16, users=4000):
    """Lets `metaheac simulate` make a world of few campaigns and users in a second."""
    shape = dataclasses.replace(TENCENT_WORLD, **FEW_KINDS, **MANY_SEEDS)
    few = dataclasses.replace(shape, campaigns=campaigns)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "write_world", partial(world.write_world, shape=few))
        patch.setattr(simulate, "MIN_POOL_EXAMPLES", 40)
        patch.setattr(simulate, "MIN_USERS", users)
        yield


def interrupt_after(patch, saves):
    """Saves a checkpoint every four steps; interrupts the process after ``saves`` of them."""
    save, saved = Checkpoints.save, []

    def save_some(self, step, *what):
        save(self, step, *what)
        saved.append(step)
        if len(saved) == saves:
            raise KeyboardInterrupt

    patch.setattr(offline, "Training", partial(offline.Training, log_every=4, save_seconds=0))
    patch.setattr(Checkpoints, "save", save_some)
    return saved


@contextmanager
def tiny_settings(*, campaigns_per_step: int = 2):
    """Settings with which a method takes seconds, nearly all of it compilation.

    Args:
      campaigns_per_step: the same for every method.
    """
    sizes = {"width": 4, "num_experts": 2, "num_critics": 2, "batch_size": 128}
    sizes |= {"campaigns_per_step": campaigns_per_step}
    sizes |= {"offline_epochs": 1, "offline_patience": None, "online_epochs": 2}
    with pytest.MonkeyPatch.context() as patch:
        for method in METHODS.values():
            own = {name: value for name, value in sizes.items() if name in method.default}
            patch.setattr(method, "default", method.default.changed(own))
        yield
