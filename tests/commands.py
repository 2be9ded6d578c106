"""Runs commands in this process, since starting jax takes longer than a tiny command."""

import dataclasses
import errno
import json
import re
import sys
import warnings
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import get_type_hints

import pytest

from metaheac_jax.cli import simulate, terminal
from metaheac_jax.methods import offline
from metaheac_jax.settings import SETTINGS
from metaheac_jax.training.checkpoint import Checkpoints

#: The fewest kinds of campaigns that a simulation accepts.
FEW_KINDS = dict.fromkeys(
    ("advertisers", "campaign_ids", "sizes", "categories", "products", "product_types"), 4
)
#: Two fields of one slot, with few and with many values, and two fields of lists.
FEW_FIELDS = ("gender", "LBS", "interest1", "kw1")


def exit_code(start, *arguments):
    """The exit code of a command; ``start`` parses ``sys.argv`` and never returns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *map(str, arguments)])
        patch.setattr(warnings, "showwarning", None)  # a command sets it
        patch.setattr(sys, "unraisablehook", sys.unraisablehook)
        patch.setattr(terminal, "set_cpu_flags", lambda: None)  # they belong to the process
        patch.setattr(terminal, "start_again", lambda: None)
        patch.setattr(terminal, "check_backend", lambda: None)  # the tests' backend has other flags
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


def with_options(words, given):
    """The words of a command with these options, which replace those that are there."""
    words = list(words)
    for name, value in given.items():
        place = words.index(name) if name in words else len(words)
        words[place : place + 2] = [name, value]
    return words


def refuses(capsys, start, *arguments, words, code=2):
    """Runs a command that must exit with this code and print one line with all the words."""
    capsys.readouterr()
    assert exit_code(start, *arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for word in words:
        assert str(word) in error


def full_disk(*_, **__):
    """In place of a function that writes."""
    raise OSError(errno.ENOSPC, "No space left on device")


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
    assert len(entries) == num_fields(options)
    for option, entry in entries.items():
        words = re.findall(r"(?<!\S)[A-Za-z]+\b", entry.partition("(default")[0])
        assert len(words) >= 5, (option, entry)
    return entries


def num_fields(options):
    """Number of fields of a dataclass, with those of its fields that are dataclasses."""
    kinds = get_type_hints(options)
    return sum(
        num_fields(kinds[field.name]) if dataclasses.is_dataclass(kinds[field.name]) else 1
        for field in dataclasses.fields(options)
    )


def write_few_fields(schema: Path, whole: dict) -> Path:
    """Writes a schema with few user fields, since programs with many take long to compile."""
    user = [field for field in whole["user"] if field["name"] in FEW_FIELDS]
    schema.write_text(json.dumps(whole | {"user": user}))
    return schema


def few_campaigns(campaigns):
    """The shape of a world that takes a second to simulate."""
    return dataclasses.replace(simulate.WORLDS["wechat"], campaigns=campaigns, **FEW_KINDS)


@contextmanager
def small_simulation(campaigns, users=4000):
    """Lets `metaheac simulate --world wechat` make a world of few campaigns and users."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(simulate.WORLDS, "wechat", few_campaigns(campaigns))
        patch.setattr(simulate, "POOL_EXAMPLES", 40)
        patch.setitem(simulate.MIN_USERS, "wechat", users)
        yield


def interrupt_after(patch, saves):
    """Saves a checkpoint every four steps; interrupts the process after ``saves`` of them."""
    save, saved = Checkpoints.save, []

    def save_some(self, step, state):
        save(self, step, state)
        saved.append(step)
        if len(saved) == saves:
            raise KeyboardInterrupt

    patch.setattr(offline, "train", partial(offline.train, save_every=4))
    patch.setattr(Checkpoints, "save", save_some)
    return saved


@contextmanager
def tiny_settings(*, campaigns_per_step: int = 2):
    """Settings with which a method takes seconds, nearly all of it compilation.

    Args:
      campaigns_per_step: the same for every method.
    """
    sizes = {"width": 4, "num_experts": 2, "num_critics": 2, "batch_size": 32}
    sizes |= {"campaigns_per_step": campaigns_per_step}
    sizes |= {"offline_epochs": 1, "offline_patience": None, "online_epochs": 2}
    with pytest.MonkeyPatch.context() as patch:
        for name, settings in list(SETTINGS.items()):
            patch.setitem(SETTINGS, name, dataclasses.replace(settings, **sizes))
        yield
