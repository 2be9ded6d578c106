"""Mutated files, compared with slow readers that are obviously right; pickles must run nothing.

A file must be read as the slow reader reads it, or refused in one line where that finds a fault.
"""

import csv
import io
import json
import re
import sys
from pathlib import Path

import authors_pickles
import numpy as np
import tables_world
from tencent_files import ADS, SCHEMA, TRAIN, USERS

from faults.scene import Tally, rng_of
from metaheac_jax.cli.campaigns import read_user_ids
from metaheac_jax.data.sources import official, tencent
from metaheac_jax.data.sources.feedback import read_feedback
from metaheac_jax.data.sources.recbole import read_atomic
from metaheac_jax.data.sources.table_fields import Encoder, learn
from metaheac_jax.data.sources.table_file import TableFile
from metaheac_jax.data.sources.table_schema import TableSchema
from metaheac_jax.errors import InputError
from metaheac_jax.progress import silent
from metaheac_jax.schema import Vocabulary

PROMISE = "a mutated file: read as a slow reader reads it, or refused in one line"
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
#: Quotes enclose a whole cell, where two stand for one; in other cells they are plain characters.
CELL = re.compile(r'("(?:[^"]|"")*"|(?!")[^,\n]*?)(,|\r?\n)')
#: Characters that are stripped from the values of a list.
SPACE = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and not "\x1c" <= c <= "\x1f")
TOKENS = (
    *(b"", b"0", b"-1", b"7", b"99999999", b"100000000", b"9999999999999999", b"12345678901234567"),
    *(b"1e5", b"1e400", b"nan", b"inf", b"0x10", b"1_0", b"+3", b" 4", b"\xc3\xa9", b"\xff", b"\0"),
    *(b"\r", b"\n", b"|", b",", b"\t", b'"', b"\xef\xbb\xbf", b"uid", b"uid 10", b"age 1", b";"),
    *("٣".encode(), b"1.5", b".5", b"5.", b"-0", b"true", b"null", b"9" * 30),
)


def mutated(content, rng):
    """One to three changes, as an editor, a copy or an attacker makes them."""
    for _ in range(rng.integers(1, 4)):
        at, to = sorted(rng.integers(0, len(content) + 1, 2))
        lines = content.split(b"\n")
        line = rng.integers(len(lines))
        token = TOKENS[rng.integers(len(TOKENS))]
        match rng.integers(8):
            case 0:
                content = content[:at] + token + content[at:]
            case 1:
                content = content[:at] + token + content[at + len(token) :]
            case 2:
                content = content[:at] + content[min(to, at + 3) :]
            case 3:
                content = content[:at] + bytes([rng.integers(256)]) + content[at + 1 :]
            case 4:
                content = b"\n".join([*lines[:line], *lines[line + 1 :]])
            case 5:
                content = b"\n".join([*lines[:line], lines[line], *lines[line:]])
            case 6:
                content = content[:at]
            case 7:
                cells = re.split(rb"([ ,|\t;])", lines[line])
                cells[rng.integers(len(cells))] = token
                lines[line] = b"".join(cells)
                content = b"\n".join(lines)
    return content


class Fault(Exception):
    """A slow reader's refusal."""


def lines_of(content):
    """Lines of a file; the last one may lack its line end."""
    if content.startswith((b"\xef\xbb\xbf", b"\x1f\x8b", b"BZh", b"\x78\x01", b"\x78\x9c")):
        raise Fault
    lines = content.split(b"\n")
    return lines[:-1] if not lines[-1] else lines


def whole(text, largest=10**16 - 1):
    if not re.fullmatch(rb"[0-9]{1,16}", text) or int(text) > largest:
        raise Fault
    return int(text)


def require(fine):
    if not fine:
        raise Fault


# The competition's files -----------------------------------------------------------------------


def read_users(path):
    tencent._check_readable(path)
    raw = path.with_name("raw")
    uid, _ = tencent._read_users(path, raw, SCHEMA, 10**9, silent)
    ids = np.fromfile(raw, np.int32).reshape(len(uid), -1) - 1
    starts = SCHEMA.user_starts
    return [
        (int(u), [[v for v in row[s : s + f.slots].tolist() if v >= 0]
                  for s, f in zip(starts, SCHEMA.user, strict=True)])
        for u, row in zip(uid, ids, strict=True)
    ]  # fmt: skip


def slow_users(content):
    users = []
    for line in lines_of(content):
        values = {}
        for part in line.split(b"|"):
            name, *own = part.split(b" ")
            require(name and own and b"" not in own)
            known = name == b"uid" or name.decode(errors="replace") in {
                field.name for field in SCHEMA.user
            }
            require(not (known and name in values))
            values[name] = own
        require(len(values.get(b"uid", [])) == 1)
        fields = [
            [whole(v, tencent.MAX_ID) for v in values.get(f.name.encode(), [])[: min(10, f.slots)]]
            for f in SCHEMA.user
        ]
        users.append((whole(values[b"uid"][0]), fields))
    require(users and all(any(user[1][f] for user in users) for f in range(len(SCHEMA.user))))
    return users


UIDS, AIDS = np.array([30, 10, 12345678901234]), np.array([5, 20])


def read_examples(path):
    tencent._check_readable(path)
    order = np.argsort(UIDS)
    found = tencent._read_examples(path, "aid,uid,label", AIDS, UIDS, order, silent)
    return sorted(zip(*(column.tolist() for column in found), strict=True))


def slow_examples(content):
    header, *lines = lines_of(content) or [b""]
    require(header == b"aid,uid,label" and lines)
    rows = []
    for line in lines:
        cells = line.split(b",")
        require(len(cells) == 3 and cells[2] in (b"1", b"-1", b"0"))
        aid, uid = whole(cells[0]), whole(cells[1])
        require(aid in AIDS and uid in UIDS)
        rows.append((int(np.argmax(aid == AIDS)), int(np.argmax(uid == UIDS)), cells[2] == b"1"))
    return sorted(rows)


def read_campaigns(path):
    tencent._check_readable(path)
    key, values = tencent._read_campaigns(path, SCHEMA)
    return list(zip(key.tolist(), values.tolist(), strict=True))


def slow_campaigns(content):
    header, *lines = lines_of(content) or [b""]
    names = header.decode(errors="replace").split(",")
    wanted = ["aid", *(field.name for field in SCHEMA.campaign)]
    require(set(wanted) <= set(names) and lines)
    rows = {}
    for line in lines:
        cells = line.split(b",")
        require(len(cells) == len(names))
        key, *values = (whole(cells[names.index(name)]) for name in wanted)
        require(key not in rows)
        rows[key] = values
    return sorted(rows.items())


# RecBole's files, and tables -------------------------------------------------------------------


def finite(text):
    require(NUMBER.fullmatch(text) and abs(float(text)) < float("inf"))
    return float(text)


def text_lines(content):
    lines = [line.removesuffix(b"\r") for line in lines_of(content)]
    try:
        return [line.decode() for line in lines]
    except UnicodeDecodeError:
        raise Fault from None


def slow_atomic(content):
    header, *lines = text_lines(content) or [""]
    columns = [cell.rpartition(":")[::2] for cell in header.split("\t")]
    kinds = {"token", "token_seq", "float", "float_seq"}
    require(lines and all(name and kind in kinds for name, kind in columns))
    require(len({name for name, _ in columns}) == len(columns))
    rows = []
    for line in lines:
        cells = line.split("\t")
        require(len(cells) == len(columns))
        row = []
        for cell, (_, kind) in zip(cells, columns, strict=True):
            parts = [part for part in cell.split(" ") if part]
            match kind:
                case "token":
                    row.append(cell)
                case "token_seq":
                    row.append(parts)
                case "float":
                    row.append(finite(cell) if cell else None)
                case "float_seq":
                    row.append(list(map(finite, parts)))
        rows.append(tuple(row))
    return rows


def csv_rows(content, columns):
    """The cells of these columns in a CSV file."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Fault from None
    text += "" if text.endswith("\n") else "\n"
    rows, row, at = [], [], 0
    while at < len(text):
        cell = CELL.match(text, at)
        require(cell)
        at = cell.end()
        plain = cell[1].removesuffix("\r")  # in case the line end is \r\n
        row.append(cell[1][1:-1].replace('""', '"') if cell[1].startswith('"') else plain)
        if cell[2] != ",":
            rows, row = [*rows, row], []
    header, *rows = rows
    require(len(set(header)) == len(header) and set(columns) <= set(header))
    require("\r" not in text.partition("\n")[0].removesuffix("\r"))
    places = [header.index(column) for column in columns]
    require(all(len(row) == len(header) for row in rows))
    return [[row[place] for place in places] for row in rows]


def read_ids(path):
    return read_user_ids(path).tolist()


def slow_ids(content):
    """User ids of a CSV file, alone or in a column with a name."""
    try:
        lines = io.StringIO(content.decode("utf-8-sig"), newline=None)
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, strict=True)]
    except (UnicodeDecodeError, csv.Error):
        raise Fault from None
    names = [name.lower() for name in rows[0]] if rows else []
    name = next((own for own in ("user_id", "userid", "uid", "id") if own in names), None)
    place, width = (names.index(name), len(names)) if name else (0, 1)
    if name in ("uid", "id"):
        word = re.compile(r"(?:^|[^A-Za-z])(?:id|Id|ID)$|[a-z](?:Id|ID)$|^[uU](?:id|ID)$")
        require(not any(word.search(own) and own.lower() != name for own in rows[0]))
    if name or (names and not any(character.isdigit() for character in names[0])):
        rows = rows[1:]
    rows = [row for row in rows if any(row)]
    require(rows and all(len(row) == width for row in rows))
    ids = [row[place] for row in rows]
    require(all(re.fullmatch(r"0|-?[1-9][0-9]{0,19}", own) for own in ids))
    require(all(-(2**63) <= int(own) < 2**63 for own in ids))
    return [int(own) for own in ids]


def read_shown(path):
    found = read_feedback(path, text=False)
    return sorted(zip(found.user_ids.tolist(), found.converted.tolist(), strict=True))


def slow_shown(content):
    shown = {}
    for user, converted in csv_rows(content, ["user_id", "converted"]):
        require(re.fullmatch(r"0|-?[1-9][0-9]*", user) and -(2**63) <= int(user) < 2**63)
        value = finite(converted)
        require(value in (0, 1))
        shown[int(user)] = shown.get(int(user), False) or bool(value)
    return sorted(shown.items())


def read_table(path):
    """Each user's id and values, with incomes as buckets; and the edges of the buckets."""
    columns = tables_world.SCHEMA.user
    file = TableFile(path, ["user_id", *(column.name for column in columns)])
    learned = [learn(file, column) for column in columns]
    vocabulary = Vocabulary(tuple(field.values for field in learned))
    encoder, users = Encoder(learned, vocabulary), []
    values = np.concatenate([[f"{v}" for v in own] for own in vocabulary.values] + [["pad"]])
    for start, frame in file.blocks():
        keys = file.ids(frame["user_id"], start, whole=False)
        rows = [[v for v in row if v != "pad"] for row in values[encoder.rows(frame)].tolist()]
        users += list(zip([key.decode() for key in keys.tolist()], rows, strict=True))
    return users, learned[1].field.edges


def quarters(numbers):
    """Edges of four buckets, in which a frequent number has one of its own."""
    edges, numbers = [], sorted(numbers)
    cuts = np.quantile(numbers, [0.25, 0.5, 0.75]).tolist()
    for cut in cuts:
        edges.append(cut)
        if cuts.count(cut) > 1 or cut == numbers[0]:
            edges += [own for own in numbers if own > cut][:1]
    return tuple(sorted({own for own in edges if own > numbers[0]})) or (numbers[0],)


def slow_table(content):
    rows = csv_rows(content, ["user_id", "city", "income", "likes"])
    missing = ["", *(sign + "nan" for sign in ("", "+", "-"))]
    incomes = [finite(row[2]) for row in rows if row[2].lower() not in missing]
    require(incomes and any(row[3].strip(";" + SPACE) for row in rows))
    edges = quarters(incomes)
    users = []
    for user, city, income, likes in rows:
        # Values of a list beyond those that are kept are not checked.
        kept = [own for like in likes.split(";") if (own := like.strip(SPACE))][:3]
        require(0 < len(user.encode()) <= 64 and "\0" not in "".join([user, city, *kept]))
        require(user == user.strip())
        missed = income.lower() in missing
        bucket = -1 if missed else sum(float(income) >= edge for edge in edges)
        users.append((user, [city, str(bucket), *kept]))
    return users, edges


# Formats without a slow reader -----------------------------------------------------------------

RAN = []
WATCH = {"os.system", "subprocess.Popen", "exec", "os.exec", "os.posix_spawn", "import"}


def _hear(event, args):
    if WATCH and event in WATCH and RAN is not None and _listening:
        RAN.append((event, args))


_listening: list = []


def read_pickle(path):
    """The lengths of a frame's columns; fails if reading runs anything."""
    _listening.append(True)
    try:
        return {name: len(column) for name, column in official.read_frame(path).items()}
    finally:
        _listening.clear()
        ran, RAN[:] = list(RAN), []
        assert not ran, f"ran {ran[:2]}"


def read_schema(path):
    return TableSchema.read(path)


PICKLE = authors_pickles.dump(
    authors_pickles.frame(authors_pickles.rows(7, 2, [1, 0, 0], 0))
)  # fmt: skip
ATOMIC = (
    "id:token\ttitle:token_seq\tprice:float\tvector:float_seq\n"
    "07\tToy  Story\t1.5e1\t1 -2.5\nx\t\t\t\né\ta b\t-3\t0.25\n"
).encode()


def table_text():
    """The users of a table in CSV."""
    users, _, _ = tables_world.world(num_users=40)
    names = ("user_id", "city", "income", "likes")
    columns = [users[name] for name in names[:3]] + [[";".join(x) for x in users["likes"]]]
    some = list(zip(*columns, strict=True))[:12]
    rows = [["" if v is None else str(v) for v in row] for row in some]
    return "\n".join(map(",".join, [names, *rows])).encode() + b"\n"


#: By name: file name, content, reader, slow reader (None: may be read, or refused in one line).
FORMATS = {
    "users": ("userFeature.data", USERS.encode(), read_users, slow_users),
    "examples": ("train.csv", TRAIN.encode(), read_examples, slow_examples),
    "campaigns": ("adFeature.csv", ADS.encode(), read_campaigns, slow_campaigns),
    "atomic": ("a.item", ATOMIC, lambda path: read_atomic(path).rows(), slow_atomic),
    "table": ("users.csv", table_text(), read_table, slow_table),
    "ids": ("seeds.csv", b"rank,user_id,score\n1,3,.5\n2,-4,.4\n", read_ids, slow_ids),
    "feedback": ("shown.csv", b"user_id,converted\n3,1\n4,0\n3,0\n", read_shown, slow_shown),
    "pickle": ("train.pkl", PICKLE, read_pickle, None),
    "schema": (
        "schema.json", json.dumps(tables_world.SCHEMA.to_json()).encode(), read_schema, None,
    ),
}  # fmt: skip


def try_file(path, content, read, slow):
    """What is wrong with how a file is read, or None."""
    path.write_bytes(content)
    try:
        found = read(path)
    except InputError as error:
        if "\n" in str(error) or str(path) not in str(error):
            return f"refused with {str(error)!r}"
        found = None
    except OSError as error:
        return f"OSError {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if slow is None:
        return None
    try:
        expected = slow(content)
    except Fault:
        expected = None
    if found is None and b'"' in content:  # a quote as a plain character may be refused
        return None
    if (found is None) != (expected is None):
        return f"{'refused' if found is None else 'read'}, unlike the slow reader"
    return None if found == expected else f"read as {found!r:.150}, slowly {expected!r:.150}"


def run(folder, names, trials):
    """Tries ``trials`` mutated files of each format."""
    sys.addaudithook(_hear)
    tallies = []
    for name in names:
        file, content, read, slow = FORMATS[name]
        path, tally = Path(folder) / file, Tally(f"{PROMISE}: {name}")
        assert try_file(path, content, read, slow) is None
        for number in range(trials):
            changed = mutated(content, rng_of(name, number))
            fault = try_file(path, changed, read, slow)
            tally.add(f"{number} {changed!r:.200}" if fault else "", fault)
        tallies.append(tally)
    return tallies
