"""Forged folders, whose digests are right, and hostile tables: read, or refused in one line.

All trials run in one process; each may take `SECONDS`, and little memory.
"""

import contextlib
import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import polars as pl

import metaheac_jax as mh
from faults.scene import Tally, rng_of
from metaheac_jax.audience.explaining import audience_traits, sensitive_traits
from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.simulation.truth import TRUTH, show
from metaheac_jax.engines.arrow import open_export
from metaheac_jax.errors import Diverged, InputError, printable
from metaheac_jax.sealed import digest_of, entries_of, keep_config, seal
from metaheac_jax.training.checkpoint import Checkpoints
from metaheac_jax.training.loop import Training

FORGED = "a forged folder {}: its object, or refused in one line"
TABLES = "hostile tables: data that can be read, or one line; the older data stay"
STOPPED = "Ctrl-C at any moment: exit code 130, and no traceback"
SECONDS, MEMORY = 30, 4 << 30
#: The manifest in each folder.
MANIFESTS = {
    "DATA": "manifest.json",
    "HISTORIES": "manifest.json",
    "MODEL": "model.json",
    "PRIOR": "model.json",
    "EXPORT": "scorer.json",
    "CHECKPOINT": "3/checkpoint.json",
    "WORLD": "world.json",
    "RUN": "run.json",
}
#: What stands in a forged manifest for a value.
ODD = (
    *(None, True, -1, 0, 1, 7, 2**31, 2**63, 10**30, 1.5, float("nan"), float("inf")),
    *("", "x", "..", "a\nb", "\x1b[2J", "\ud800", "/etc/passwd", "é" * 300),
    *([], {}, [[]], [None], {"": None}, ["x", 1], [1, 1], {"name": "x", "slots": 10**9}),
)


# Forging -----------------------------------------------------------------------------------------


def places(body, above=()):
    """The path of every value in plain data."""
    for key in body if isinstance(body, dict) else range(len(body)):
        yield (*above, key)
        if isinstance(body[key], dict | list):
            yield from places(body[key], (*above, key))


def mutated(body, rng):
    """Changes one value in plain data; returns what it did."""
    every = [own for own in places(body) if own[0] != "digest"]
    tops = sorted({own[0] for own in every})  # large parts do not get all trials
    chosen = tops[rng.integers(len(tops))]
    every = [own for own in every if own[0] == chosen]
    *above, key = every[rng.integers(len(every))]
    inside = body
    for own in above:
        inside = inside[own]
    way = rng.integers(8)
    if way == 0:
        del inside[key]
    elif way == 1 and isinstance(inside, dict):
        inside[str(ODD[rng.integers(len(ODD))])] = inside.pop(key)
    elif way == 2 and isinstance(inside, list):
        inside.append(inside[key])
    else:
        inside[key] = ODD[rng.integers(len(ODD))]
    left = inside.get(key) if isinstance(inside, dict) else inside
    return f"{'.'.join(map(str, (*above, key)))}: {left!r:.60}"


def odd_array(array, rng):
    """Another array in the place of one: another dtype, shape or range, or no array."""
    kinds = ("f4", "f8", ">i4", "i1", "u8", "?", "O", "c8", "M8[s]", "U3", "S3", "i8")
    ways = {
        "shorter": lambda: array[: len(array) // 2] if array.ndim else array[None],
        "longer": lambda: np.concatenate([array, array]) if array.ndim else np.stack([array] * 2),
        "deeper": lambda: array[..., None],
        "flat": array.ravel,
        "single": lambda: np.asarray(array.ravel()[0] if array.size else 0),
        "empty": lambda: array.ravel()[:0],
        "reversed": lambda: array[::-1].copy() if array.ndim else -array,
        "transposed": lambda: np.asfortranarray(array.T),
        "fortran": lambda: np.asfortranarray(array),
        "structured": lambda: np.zeros(array.shape, [("a", "i4"), ("b", "f8")]),
        "constant": lambda: np.full_like(array, array.ravel()[0] if array.size else 0),
    }
    if array.dtype.kind in "if":
        info = np.iinfo(array.dtype) if array.dtype.kind == "i" else np.finfo(array.dtype)
        one = {"max": info.max, "min": info.min, "minus": -1, "beyond": array.max(initial=0) + 1}
        if array.dtype.kind == "f":
            one |= {"nan": np.nan, "inf": np.inf}
        ways |= {name: lambda v=value: with_one(array, v, rng) for name, value in one.items()}
    elif array.dtype.kind in "US":
        raw = array.copy()
        raw.view("u1")[...] = rng.integers(0, 256, raw.view("u1").shape)
        ways |= {"bytes": lambda: raw, "long": lambda: np.array(["x" * 500] * len(array))}
    ways |= {f"as {kind}": lambda kind=kind: array.astype(kind) for kind in kinds}
    ways |= dict.fromkeys(("pickle", "noise", "none", "header", "bomb"), None)
    name = list(ways)[rng.integers(len(ways))]
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return name, None if ways[name] is None else ways[name]()
        except (ValueError, TypeError):
            return "flat", array.ravel()


def with_one(array, value, rng):
    """The array with another value at one place."""
    array = array.copy()
    if array.size:
        array.ravel()[rng.integers(array.size)] = value
    return array


def odd_bytes(path, name, rng):
    """Bytes in the place of an array's."""
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<i4', 'fortran_order': False, 'shape': (%s,), }"
    if name == "none":
        return b""
    if name == "noise":
        return rng.bytes(200)
    if name in ("header", "bomb"):
        count = (b"-1", b"9" * 14, b"'a'")[rng.integers(3)] if name == "header" else b"9" * 11
        return (header % count).ljust(127) + b"\n" + bytes(64)
    np.save(path, np.array([{"a": 1}], object), allow_pickle=True)
    return path.read_bytes()


def forge(folder, manifest, rng):
    """Changes the manifest of a folder, or an array or a name in it; its digests are right."""
    path = folder / manifest
    body, base = json.loads(path.read_text()), path.parent
    arrays = sorted(own for own in base.rglob("*.np[yz]") if own.is_file())
    way = rng.random()
    if way < 0.45 or not body.get("files"):
        told = mutated(body, rng)
    elif way < 0.9 and arrays:
        chosen = arrays[rng.integers(len(arrays))]
        told = replace_array(base, chosen, body["files"], rng)
    else:
        told = lead_out(base, body["files"], rng)
    body.pop("digest", None)
    path.unlink()
    path.write_text(json.dumps({**body, "digest": digest_of(body)}))
    return told


def replace_array(base, path, entries, rng):
    """Puts another array into a file, or into an archive; the file's entry is right again."""
    name, member = str(path.relative_to(base)), ""
    content = dict(np.load(path)) if path.suffix == ".npz" else {"": np.load(path)}
    member = [*content][rng.integers(len(content))]
    way, array = odd_array(content[member], rng)
    path.unlink()  # copies are hard links
    if array is None:
        path.write_bytes(odd_bytes(path.with_suffix(".npy"), way, rng))
    elif path.suffix == ".npz":
        np.savez(path, **content | {member: array})
    else:
        np.save(path, array)
    del entries[name]
    [entry] = entries_of(base, [path]).values()
    if "-" in path.stem:  # a column of data: its name has the digest
        path = path.rename(path.with_name(f"{name.rpartition('-')[0]}-{entry['sha256'][:16]}.npy"))
    entries[str(path.relative_to(base))] = entry
    return f"{name} {member}: {way}"


def lead_out(base, entries, rng):
    """Moves a file out of the folder, and names it there or links to it."""
    name = [*entries][rng.integers(len(entries))]
    outside = base.parent / f"outside-{Path(name).name}"
    outside.unlink(missing_ok=True)
    way = ("..", "absolute", "link", "folder", "fifo")[rng.integers(5)]
    if way == "folder":
        shutil.move(base / name, outside)
        (base / "way").unlink(missing_ok=True)
        (base / "way").symlink_to(base.parent)
        entries[f"way/{outside.name}"] = entries.pop(name)
        return f"{name}: {way}"
    (base / name).rename(outside)
    if way == "link":
        (base / name).symlink_to(outside)
    elif way == "fifo":
        os.mkfifo(base / name)
    else:
        new = f"../{outside.name}" if way == ".." else str(outside)
        entries[new] = entries.pop(name)
    return f"LEAD OUT {name}: {way}"


# Reading -----------------------------------------------------------------------------------------


class Readers:
    """Folders of each kind in a scene, and functions that read one and use what it has."""

    def __init__(self, scene):
        self.folder, self.scene = scene.folder, scene
        self.general = mh.load(scene.folder / "MODEL")
        self.data = mh.open_dataset(scene.folder / "DATA")
        self.users = pl.read_csv(scene.folder / "TABLES" / "users.csv").to_arrow()
        self.state = {"state": {"w": np.ones((4, 2), np.float32), "n": np.zeros((), np.int32)}}
        self.state = jax.tree.map(jax.numpy.asarray, self.state)
        if not (self.folder / "RUN").exists():
            self.make()

    def make(self):
        """Makes the folders that the scene does not have."""
        schema = json.loads((self.folder / "TABLES" / "schema.json").read_text())
        schema["user"] = [
            {"name": "city"},
            {"name": "likes", "buckets": 4},
            {"name": "hobbies", "slots": 3, "separator": ";"},
            {"name": "sex", "sensitive": True},
        ]
        tables = self.folder / "TABLES 2"
        shutil.copytree(self.folder / "TABLES", tables)
        (tables / "schema.json").write_text(json.dumps({**schema, "history": True}))
        users = pl.read_csv(tables / "users.csv").with_columns(
            user_id=pl.format("é{}", "user_id"),
            hobbies=pl.format("h{};g{}", pl.col("likes") % 5, pl.col("likes") % 3),
            sex=pl.lit("f"),
        )
        users.write_csv(tables / "users.csv")
        rows = pl.read_csv(tables / "examples.csv")
        rows = rows.with_columns(user_id=pl.format("é{}", "user_id"), audience=pl.lit(0))
        rows = rows.with_columns(audience=(pl.int_range(pl.len()) % 7 == 0).cast(pl.Int8))
        rows.write_csv(tables / "examples.csv")
        second = mh.prepare(tables, self.folder / "HISTORIES")
        method = mh.methods.configured("lr")
        self.second_model = mh.fit(second, method)
        mh.save(self.second_model, self.folder / "LR")
        prior = mh.methods.configured("learned-prior", num_factors=2)
        mh.save(mh.fit(self.data, prior), self.folder / "PRIOR")
        checkpoints = Checkpoints(self.folder / "CHECKPOINT")
        checkpoints.save(3, self.state, {"judgements": [[1, 0.5, 0.7]]})
        (self.folder / "RUN").mkdir()
        keep_config(self.folder / "RUN" / "run.json", CONFIG, PLACE, restart="delete it")
        small_world(self.folder / "WORLD")

    def read(self, name, folder):
        """Reads a forged folder, and uses it as commands do."""
        getattr(self, f"read_{name.lower()}")(folder)

    def _data(self, folder, general):
        data = mh.open_dataset(folder)
        for own in data.campaign_ids[-1:]:
            mh.expand(general, data, plain_id(own), size=30)
        look_at(data)

    def read_data(self, folder):
        self._data(folder, self.general)

    def read_histories(self, folder):
        self._data(folder, mh.load(self.folder / "LR"))

    def read_model(self, folder):
        general = mh.load(folder, optimizer=True)
        mh.expand(general, self.data, "tea", size=30)
        [*general.campaigns, *general.held_out, *map(float, sum(general.judgements, ()))]

    read_prior = read_model

    def read_export(self, folder):
        scorer = open_export(folder)
        scorer._chunk = 256
        scorer(self.users)

    def read_checkpoint(self, folder):
        training = SimpleNamespace(name="x", num_steps=5, arrays=self.state)
        Training.resume(cast(Any, training), Checkpoints(folder))

    def read_world(self, folder):
        show(folder, pl.DataFrame({"campaign_id": [5, 7], "user_id": [1, 3]}))

    def read_run(self, folder):
        keep_config(folder / "run.json", CONFIG, PLACE, restart="delete it")


CONFIG = {"method": "lr", "settings": {"a": 1, "b": [1, 2]}, "seed": 3, "campaigns": [1, "x"]}
PLACE = {"processor": "x"}


def small_world(folder):
    """The part of a simulated world that answers."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays = {
        "user_ids": np.arange(9),
        "campaign_ids": np.array([5, 7]),
        "traits": rng.normal(size=(9, 4)).astype(np.float32),
        "pairs": rng.normal(size=(2, 4, 3)),
        "weights": rng.normal(size=(7, 2)),
        "intercept": np.zeros(2),
    }
    np.savez(folder / TRUTH, **arrays)
    recipe = {"format": "metaheac_jax world 3", "shape": "x", "seed": 0, "users": 9}
    seal(folder, "world.json", recipe, [folder / TRUTH])


def look_at(data):
    """Reads everything that data have."""
    assert data.user_rows[:].shape == (data.num_users, data.schema.num_slots)
    every = np.ones(data.num_users, bool)
    shown = [*audience_traits(data, every, every), *sensitive_traits(data, every, every)]
    json.dumps([vars(own) for own in shown]).encode()
    for number in range(data.num_campaigns):
        campaign = data.campaign(number)
        data.user_rows.of_examples(campaign.users, number)
    [own.decode() if isinstance(own, bytes) else int(own) for own in data.user_ids]
    for field, values in zip(data.schema.fields, data.vocabulary.values, strict=True):
        "".join(field.text(value) for value in values.tolist()).encode()
    data.completed()


@contextlib.contextmanager
def limited():
    """A block that may not take long or much memory."""

    def late(*_):
        raise TimeoutError(f"it takes over {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    signal.alarm(SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def judged(tally, trial, act):
    """Adds a trial: the act returns, or refuses in one line without control characters."""
    try:
        with limited():
            act()
    except (InputError, Diverged) as refused:
        fault = None if printable(str(refused)) == str(refused) else f"message: {refused!r}"
    except BaseException as error:
        fault = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    else:
        fault = None
        if "LEAD OUT" in trial and not trial.endswith("link"):
            fault = "read outside of the folder"
        if "LEAD OUT" in trial and trial.endswith("link"):
            fault = "followed a link that leads out"
    tally.add(trial, fault)


def forged(scene, trials, names=tuple(MANIFESTS)):
    """Forges folders of each kind; yields a tally for each."""
    readers = Readers(scene)
    for name in names:
        readers.read(name, scene.folder / name)  # what is not forged is not refused
        tally = Tally(FORGED.format(name))
        for number in range(trials):
            rng = rng_of("forged", name, number)
            hit = scene.folder / "forged" / "hit"
            shutil.rmtree(hit.parent, ignore_errors=True)
            shutil.copytree(scene.folder / name, hit, copy_function=os.link)
            told = forge(hit, MANIFESTS[name], rng)
            judged(tally, f"{number}, {told}", lambda hit=hit, name=name: readers.read(name, hit))
        yield tally


# Tables ------------------------------------------------------------------------------------------


def bomb(path, line=b"1,2\n"):
    """Compresses a gigabyte into a small file."""
    once = gzip.compress(line * (1 << 22))  # members of a gzip file follow each other
    path.with_name(f"{path.name}.csv.gz").write_bytes(gzip.compress(b"user_id,city\n") + once * 64)


def renamed(path, column, name):
    frame = pl.read_csv(path).rename({column: name})
    path.unlink()
    frame.write_parquet(path.with_suffix(".parquet"))


def edited(path, before, after):
    path.write_bytes(path.read_bytes().replace(before, after))


def fifo(path):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


CONTROLS = ("a\nb", "\x1b]0;x\x07", "a\x00b", "\x9b2J", "a\u2028b", "\u202eb")
#: What is done to the three tables before they are prepared.
HOSTILE = {
    **{
        f"column {name!r}": lambda t, name=name: renamed(t / "users.csv", "city", name)
        for name in (*CONTROLS, "", ".", "..", "a/b", "x" * 300, "é" * 120, "user_rows", "NUL")
    },
    **{
        f"campaign's column {name!r}": lambda t, name=name: renamed(
            t / "campaigns.csv", "topic", name
        )
        for name in CONTROLS
    },
    **{
        f"value {own!r}": lambda t, own=own: edited(t / "users.csv", b",c1,", f',"{own}",'.encode())
        for own in CONTROLS
    },
    **{
        f"{name} with {what}": lambda t, name=name, content=content: (
            t / f"{name}.csv"
        ).write_bytes(content)
        for name in ("users", "campaigns", "examples")
        for what, content in {
            "nothing": b"",
            "line ends": b"\n\n\n",
            "zeros": bytes(99),
            "noise": bytes(range(256)),
            "a wrong magic": b"\x1f\x8b\x08\x00" + bytes(99),
            "a header": b"user_id,city,likes\n",
        }.items()
    },
    "a gzip file named .csv": lambda t: edited_gzip(t / "users.csv"),
    "a bomb": lambda t: [bomb(t / "users"), (t / "users.csv").unlink()],
    "a bomb of one line": lambda t: [bomb(t / "users", b"a" * 8), (t / "users.csv").unlink()],
    "a bomb named .csv": lambda t: [
        bomb(t / "users"),
        (t / "users.csv.gz").rename(t / "users.csv"),
    ],
    "a cut gzip file": lambda t: [
        (t / "users.csv.gz").write_bytes(gzip.compress((t / "users.csv").read_bytes())[:-9]),
        (t / "users.csv").unlink(),
    ],
    "a Parquet file of nothing": lambda t: [
        (t / "users.parquet").write_bytes(b"PAR1PAR1"),
        (t / "users.csv").unlink(),
    ],
    "a fifo of users": lambda t: fifo(t / "users.csv"),
    "a fifo as a schema": lambda t: fifo(t / "schema.json"),
    "an empty schema": lambda t: (t / "schema.json").write_text(""),
    "a deep schema": lambda t: (t / "schema.json").write_text("[" * 99_999),
    "a schema of NaN": lambda t: (t / "schema.json").write_text(
        '{"user": [{"name": "likes", "edges": [NaN]}], "campaign": [{"name": "topic"}]}'
    ),
    "a schema of many slots": lambda t: (t / "schema.json").write_text(
        '{"user": [{"name": "city", "separator": ";", "slots": 2000000000}], '
        '"campaign": [{"name": "topic"}]}'
    ),
    "a history of text": lambda t: edited(
        t / "schema.json", b'"history": false', b'"history": "x"'
    ),
    "an empty SIMULATED": lambda t: (t / "SIMULATED").write_text(""),
    "a SIMULATED of bytes": lambda t: (t / "SIMULATED").write_bytes(b"\xff\xfe\x1b[2J"),
    "a SIMULATED that is a fifo": lambda t: fifo(t / "SIMULATED"),
    "a SIMULATED of control characters": lambda t: (t / "SIMULATED").write_text("\x1b[2J\n"),
    "ids with control characters": lambda t: [
        edited(t / name, b"old1", b"old1\x1b[2J") for name in ("campaigns.csv", "examples.csv")
    ],
}


def edited_gzip(path):
    path.write_bytes(gzip.compress(path.read_bytes()))


def hostile(scene, names=None):
    """Prepares hostile tables over good data, and explains a campaign of what it becomes."""
    tally = Tally(TABLES)
    for name in HOSTILE if names is None else names:
        folder = scene.folder / "hostile"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(scene.folder / "TABLES", folder / "in")
        shutil.copytree(scene.folder / "DATA", folder / "out")
        HOSTILE[name](folder / "in")
        if "schema" not in name and "history" not in name:
            (folder / "in" / "schema.json").unlink()
        judged(tally, name, lambda folder=folder: prepared(folder))
        if tally.failures and tally.failures[-1].startswith(f"{name}: "):
            continue
        try:
            mh.open_dataset(folder / "out")
        except Exception as error:
            tally.failures.append(f"{name}: the data are unreadable: {error!r:.100}")
            print("  FAILED", tally.failures[-1])
    return tally


def prepared(folder):
    """Prepares tables, and describes an audience; nothing on its page is a control character."""
    data = mh.prepare(folder / "in", folder / "out")
    look_at(data)
    general = mh.fit(data, "lr")
    page = mh.explain(general, data, data.campaign_ids[1], size=60)
    shown = [own for own in page.html().splitlines() if printable(own) != own]
    assert not shown, f"on the page: {shown[0]!r:.90}"
    texts = json.loads(json.dumps(page.to_json()))
    assert all(printable(own) == own for own in leaves(texts)), "in the page's JSON"


def leaves(plain):
    """The texts in plain data."""
    if isinstance(plain, dict):
        plain = [*plain, *plain.values()]
    if isinstance(plain, list):
        for own in plain:
            yield from leaves(own)
    elif isinstance(plain, str):
        yield plain


# Ctrl-C ------------------------------------------------------------------------------------------


def stopped(scene, trials):
    """Interrupts a command some time after Python has imported the package."""
    tally = Tally(STOPPED)
    words = [sys.executable, "-X", "importtime", "-m", "metaheac_jax", "fit"]
    words += [str(scene.folder / "DATA"), str(scene.folder / "interrupted")]
    words += ["--method", "learned-prior"]
    for number in range(trials):
        child = subprocess.Popen(
            words,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        told = []
        for line in child.stderr:
            told.append(line)
            if line.rstrip().endswith("| metaheac_jax"):
                break
        time.sleep(0.003 + rng_of("stopped", number).uniform(0, 1.6) ** 2)
        child.send_signal(signal.SIGINT)
        told += child.stderr
        code = child.wait()
        told = [own for own in told if not own.startswith("import time:")]
        quiet = all(own.startswith("stopped; ") for own in told) and len(told) < 2
        ended = code == 130 or (code == 0 and not told)
        fault = f"exit {code}: {' | '.join(map(str.strip, told))[-400:]}"
        tally.add(number, None if quiet and ended else fault)
    return tally
