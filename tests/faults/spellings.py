"""Ids in every spelling, option and kind of file; and values that only a forgotten person had.

All trials run in this process, with a world of 60 users per kind of ids.
"""

import gzip
import io
import itertools
import shutil
import warnings
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import polars as pl
from commands import exit_code

import metaheac_jax as mh
from faults.scene import Tally, rng_of
from metaheac_jax.cli.main import main
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import write_json

SPELLED = "an id in any spelling and file, {}: the person is meant, or one line names the row"
FORGOTTEN = "what only the removed had is in no byte: {}"
NUM_USERS = 60
#: Spellings of an id, and whether they mean it in files of text.
SPELLINGS = {
    "plain": (lambda id: id, True),
    "with an apostrophe": (lambda id: f"'{id}" if id[0] in "=+-@" else id, True),
    "with a space": (lambda id: f" {id}", False),  # but for lines of text
    "as a float": (lambda id: f"{id}.0", False),
    "with zeros": (lambda id: f"00{id}", False),
    "with a sign": (lambda id: f"+{id}", False),
    "with an exponent": (lambda id: f"{id}e0", False),
    "as an address": (lambda id: f"{id}@example.org", False),
    "with a comma": (lambda id: f"{id}'000", False),
    "wide": (lambda id: "".join(chr(ord(c) + 0xFEE0) for c in id), False),
    "hexadecimal": (lambda id: f"0x{id}", False),
    "too large": (lambda id: f"{id}{10**19}", False),
    "missing": (lambda id: "NaN", False),
    "with a mark": (lambda id: f"{id}\u200b", False),
}
FORMS = ("txt", "txt of Windows", "csv", "csv of Windows", "csv.gz", "parquet")
FORMS += ("parquet of floats", "list")
OPTIONS = ("prepare --exclude", "add --exclude", "expand --exclude", "expand --pool")
OPTIONS += ("expand --seeds", "explain --pool")
KINDS = ("whole numbers", "text")


def ids_of(kind):
    if kind == "whole numbers":
        return [str(own) for own in (*range(2, NUM_USERS), -7, 10**15)]
    return ["ann", "@bob", "-eve", "=dan", "+joe", "é", *(f"u{n}" for n in range(NUM_USERS - 6))]


def world(folder, kind):
    """Tables, data and a model of users with ids of a kind, made once."""
    place = folder / kind.replace(" ", "-")
    if place.exists():
        return place
    rng, ids = np.random.default_rng(0), ids_of(kind)
    numbers = [int(own) if kind == "whole numbers" else own for own in ids]
    (place / "tables").mkdir(parents=True)
    users = pl.DataFrame({"user_id": numbers, "city": [f"c{n % 4}" for n in range(len(ids))]})
    users.write_parquet(place / "tables" / "users.parquet")
    pl.DataFrame({"campaign_id": ["a", "b"], "topic": ["t", "s"]}).write_csv(
        place / "tables" / "campaigns.csv"
    )
    pl.DataFrame({
        "campaign_id": np.repeat(["a", "b"], 40),
        "user_id": [numbers[n] for _ in "ab" for n in rng.permutation(len(ids))[:40]],
        "label": rng.integers(0, 2, 80),
    }).write_parquet(place / "tables" / "examples.parquet")  # fmt: skip
    write_json(place / "attributes.json", {"topic": "t"})
    must("prepare", place / "tables", place / "data")
    must("fit", place / "data", place / "model", "--method", "lr")
    return place


def command(*words):
    """Exit code of a command in this process, and what it tells."""
    told = io.StringIO()
    with redirect_stderr(told), redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("always")
        code = exit_code(main, *words)
    return code, told.getvalue()


def must(*words):
    code, told = command(*words)
    assert code == 0, told


def write_ids(path, ids, form):
    """Writes ids to a file; returns it, or None if a file of this form cannot have them."""
    kind, _, special = form.partition(" of ")
    path = path.with_name(f"{path.name}.{kind}")
    if special == "floats":
        try:
            pl.DataFrame({"user_id": [float(own) for own in ids]}).write_parquet(path)
        except ValueError:
            return None
    elif kind == "parquet":
        pl.DataFrame({"user_id": ids}).write_parquet(path)
    elif special:
        lines = ids if kind == "txt" else ["user_id", *(f'"{own}"' for own in ids)]
        path.write_bytes("".join(f"{own}\r\n" for own in lines).encode("utf-8-sig"))
    elif kind == "txt":
        path.write_text("\n".join(ids))
    else:
        text = "\n".join(["user_id", *ids, ""]).encode()
        path.write_bytes(gzip.compress(text) if kind == "csv.gz" else text)
    return path


def cases():
    """Every kind of ids, option, form and spelling, in a random order."""
    every = [*itertools.product(KINDS, OPTIONS, FORMS, SPELLINGS)]
    return [every[n] for n in rng_of("spellings").permutation(len(every))]


def spellings(folder, trials):
    """Names a person, among others or alone, in a file or list that an option takes."""
    tallies = {option: Tally(SPELLED.format(option)) for option in OPTIONS}
    for trial, (kind, option, form, spelling) in enumerate(cases()[:trials]):
        place, rng = world(folder / "spellings", kind), rng_of("spelling", trial)
        shutil.rmtree(folder / "one", ignore_errors=True)
        (folder / "one").mkdir()
        person, *others = rng.permutation(ids_of(kind))[:6].tolist()
        spell, means = SPELLINGS[spelling]
        row = int(rng.integers(0, len(others) + 1))
        others = others if rng.random() < 0.8 else []
        row = min(row, len(others))
        named = [*others[:row], spell(person), *others[row:]]
        if form == "list":
            given, where = named, f"item {row + 1}"
        else:
            given = write_ids(folder / "one" / "ids", named, form)
            where = f"row {row + 1}" if "parquet" in form else f"line {row + 1 + ('csv' in form)}"
        if given is None:
            continue
        if spell(person) != person:  # files of text are for people
            means &= form[:3] in ("txt", "csv")
            means |= form[:3] == "txt" and spelling == "with a space"
        run = with_list if form == "list" else with_file
        code, told, present = run(place, folder / "one", option, given, person)
        fault = None
        if code not in (0, 2) or told.count("\n") > 1 or (code == 2 and not told):
            fault = f"exit {code}: {told[-300:]}"
        elif form == "parquet of floats":
            fault = None if code == 2 and "user_id" in told else f"exit {code}: {told}"
        elif means and code:
            fault = f"refused: {told}"
        elif means and present is not None and present != option.endswith(("--pool", "--seeds")):
            fault = "the person was not meant"
        elif not means and where not in told:
            fault = f"exit {code}, no row: {told}"
        elif not means and kind == "whole numbers" and not code:
            fault = f"not refused: {told}"
        name = f"{option}, {form}, {spelling} ({spell(person)}, {where} of {len(named)})"
        tallies[option].add(name, fault)
    return [*tallies.values()]


def with_file(place, folder, option, path, person):
    """Runs a command with a file of ids: its exit code, its messages, and who is in the output.

    The last is whether the person is in the data, among the seeds or in the pool; None if unknown.
    """
    verb, name = option.split()
    data, out = folder / "data", folder / f"out.{'json' if verb == 'explain' else 'csv'}"
    models = (verb, place / "model", place / "data", "--out", out)
    if verb in ("prepare", "add"):
        if verb == "add":
            shutil.copytree(place / "data", data)
        words = (verb, place / "tables", data) if verb == "prepare" else (verb, data)
        code, told = command(*words, name, path)
        return code, told, code == 0 and has(open_dataset(data), person)
    if name == "--seeds":
        more = ("--seeds", path, "--attributes", place / "attributes.json", "--percent", 100)
        code, told = command(*models, *more)
        return code, told, code == 0 and person not in members(out)
    if verb == "explain":
        code, told = command(*models, "--campaign", "a", name, path, "--size", 1)
        return (0, "", None) if "nobody of the pool" in told else (code, told, None)
    code, told = command(*models, "--campaign", "a", name, path, "--percent", 100)
    return code, told, None if is_seed(place, person) else code == 0 and person in members(out)


def with_list(place, folder, option, ids, person):
    """As `with_file`, by functions of the library with a list of ids."""
    verb, name = option.split()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if verb == "prepare":
                data = mh.prepare(place / "tables", folder / "data", exclude=ids)
                present = has(data, person)
            elif verb == "add":
                shutil.copytree(place / "data", folder / "data")
                present = has(mh.add(open_dataset(folder / "data"), exclude=ids), person)
            else:
                data, general = open_dataset(place / "data"), mh.load(place / "model")
                campaign, options = "a", {name[2:]: ids}
                if name == "--seeds":
                    campaign, options = data.new_campaign(ids, {"topic": "t"}), {}
                found = mh.expand(general, data, campaign, percent=100, **options)
                present = person in {str(own) for own in found["user_id"]}
                present = not present if name == "--seeds" else present
                present = None if name != "--seeds" and is_seed(place, person) else present
        except InputError as error:
            return 2, str(error), None
    return 0, "".join(str(own.message) for own in caught), present


def is_seed(place, person):
    """Whether a person is a seed of the campaign, and so in no audience."""
    data = open_dataset(place / "data")
    return person in {text(data.user_ids[own]) for own in data.campaign(0).seeds}


def members(out):
    """The ids in an audience; their apostrophes are as in the file."""
    ids = pl.read_csv(out, infer_schema=False)["user_id"].to_list()
    return {own.removeprefix("'") for own in ids}


def text(id):
    return id.decode() if isinstance(id, bytes) else str(id)


def has(data, person):
    return person in {text(own) for own in data.user_ids}


# Forgetting -------------------------------------------------------------------------------------

#: Fields, and what the first user has there alone.
SECRETS = {
    "category": ("city", "Ultima Thule"),
    "number of a category": ("zip", 987654321987),
    "list": ("likes", "numismatics"),
    "number": ("income", 7654321.25),
    "sensitive": ("faith", "Zoroastrian"),
    "sensitive list": ("ills", "porphyria"),
}


def write_people(folder, rng, secrets):
    """Tables of 30 users, of whom the first has the secrets."""
    folder.mkdir(parents=True)
    n = 30
    users = {
        "user_id": [f"person{own:03d}" for own in range(n)],
        "city": [f"c{own}" for own in rng.integers(0, 5, n)],
        "zip": rng.integers(10, 15, n).tolist(),
        "likes": ["|".join(f"t{own}" for own in rng.choice(6, 2, replace=False)) for _ in range(n)],
        "income": (rng.integers(0, 40, n) + 0.5).tolist(),
        "faith": [f"f{own}" for own in rng.integers(0, 3, n)],
        "ills": [f"i{own}|i9" for own in rng.integers(0, 3, n)],
    }
    for name, secret in secrets.items():
        value = users[name][0]
        users[name][0] = f"{value}|{secret}" if isinstance(value, str) and "|" in value else secret
    pl.DataFrame(users).write_csv(folder / "users.csv")
    topics = {"campaign_id": [f"k{own}" for own in range(4)], "topic": list("abab")}
    pl.DataFrame(topics).write_csv(folder / "campaigns.csv")
    people = rng.permutation(n)[:20]
    pl.DataFrame({
        "campaign_id": np.repeat(topics["campaign_id"], 5),
        "user_id": [users["user_id"][own] for own in people],
        "label": rng.integers(0, 2, 20),
    }).write_csv(folder / "examples.csv")  # fmt: skip
    fields = [
        {"name": "city"},
        {"name": "zip"},
        {"name": "likes", "slots": 3, "separator": "|"},
        {"name": "income", "edges": [10, 20, 30]},
        {"name": "faith", "sensitive": True},
        {"name": "ills", "slots": 3, "separator": "|", "sensitive": True},
    ]
    content = {"user_id": "user_id", "campaign_id": "campaign_id", "user": fields}
    write_json(folder / "schema.json", content | {"campaign": [{"name": "topic"}], "history": True})


def traces(folder, secret):
    """Files of a folder that have a value as text, as 32-bit characters or as a number."""
    said = str(secret)
    parts = [said.encode(), said.encode("utf-32-le"), said.encode("utf-16-le")]
    if not isinstance(secret, str):
        parts.append(np.array(secret).tobytes())
        parts.append(np.array(secret, float).tobytes())
    return [
        path.name
        for path in folder.rglob("*")
        if path.is_file() and any(part in path.read_bytes() for part in parts)
    ]


def decoded(data):
    """Per user, what every slot has, by name of the field; and sensitive values."""
    rows, found = np.asarray(data.user_rows[np.arange(data.num_users)]), {}
    names, start = ["(none)"] * (data.num_rows + 1), 0
    for own, values in zip(data.schema.fields, data.vocabulary.values, strict=True):
        names[start : start + len(values)] = [own.text(value) for value in values.tolist()]
        start += len(values)
    for user, id in enumerate(data.user_ids):
        sensitive = [
            [[*own.values.tolist(), "(none)"][code] for code in own.codes[user]]
            for own in data.sensitive.values()
        ]
        found[text(id)] = [[names[row] for row in rows[user]], sensitive]
    attributes = [[names[row] for row in own] for own in data.campaign_rows]
    return found, attributes


def forgetting(folder, trials):
    """Removes the one who has some secrets; the others keep all that they have."""
    tallies = {}
    for trial in range(trials):
        rng, place = rng_of("forgetting", trial), folder / "forgetting"
        shutil.rmtree(place, ignore_errors=True)
        kinds = [[*SECRETS][trial % len(SECRETS)], *rng.permutation([*SECRETS])[: trial % 3]]
        secrets = dict(SECRETS[own] for own in kinds)
        write_people(place / "tables", rng, secrets)
        must("prepare", place / "tables", place / "data")
        if trial % 2:  # the users' rows are then those of a smaller table
            (place / "more.csv").write_text("campaign_id,topic\nk9,brandnew\n")
            must("add", place / "data", "--campaigns", place / "more.csv")
        before, attributes = decoded(open_dataset(place / "data"))
        gone = ["person000", *before][: 1 + trial % 3]
        (place / "gone.txt").write_text("\n".join(dict.fromkeys(gone)))
        must("add", place / "data", "--exclude", place / "gone.txt")
        after, now = decoded(open_dataset(place / "data"))
        kept = {id: own for id, own in before.items() if id not in gone}
        tally = tallies.setdefault(kinds[0], Tally(FORGOTTEN.format(kinds[0])))
        found = {own: traces(place / "data", own) for own in (*secrets.values(), *gone)}
        fault = next((f"{own!r} is in {where}" for own, where in found.items() if where), None)
        if after != kept or now != attributes:
            fault = "those who stay have other values"
        tally.add(trial, fault)
    return [*tallies.values()]
