"""Parses large text files with numpy, in blocks of whole lines, on two threads.

Parsing only detects that a block has a faulty line; a second, slow pass finds the line and reason.

Axes: n lines of a block, T tokens of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from metaheac_jax.errors import InputError
from metaheac_jax.progress import Progress
from metaheac_jax.threads import in_threads

MAX_DIGITS = 16  # limit for any integer
LEAD = b"\n" * 8  # prefix of every block, since reads of 8 bytes may begin before its text
BLOCK = 1 << 22  # bytes of text; less causes page faults, more causes cache misses
WORKERS = 2  # threads
LINE_LIMIT = 1 << 26  # bytes
#: First bytes of gzip, zstd, bzip2, xz and zlib files.
COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zX")
COMPRESSED += (b"\x78\x01", b"\x78\x9c", b"\x78\xda")
_ZEROS = np.uint64(int.from_bytes(b"0" * 8))
_SPARE_BITS = np.arange(64, -1, -8).astype(np.uint64)  # unused bits of a word, by bytes in use


def parse_file(
    path: Path,
    parse: Callable[[bytes], tuple[np.ndarray, ...]],
    fault: Callable[[bytes], str],
    progress: Progress,
    *,
    header: str | None = None,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields the parsed blocks of a file, in order.

    Args:
      path: the file.
      parse: turns a block, which begins with `LEAD`, into arrays; the first has n entries.
      fault: returns the error in a line; empty if there is none.
      progress: receives the bytes done.
      header: expected first line, which is skipped; None if there is none.

    Raises:
      InputError: the header differs, or ``parse`` raised `Malformed`; the message names the line.
    """

    def parsed(block: bytes) -> tuple[bytes, tuple[np.ndarray, ...] | None]:
        try:
            return block, parse(block)
        except Malformed:
            return block, None

    total = path.stat().st_size
    number = 1  # line number of the first line in the block
    with path.open("rb") as file:
        if header is not None:
            first = file.readline(200)
            if first.rstrip(b"\n") != header.encode():
                raise line_error(path, 1, f"expected the header {header!r}, got {show(first)}")
            number = 2
        done = file.tell()
        for block, arrays in in_threads(parsed, _blocks(path, file), num_threads=WORKERS):
            if arrays is None:
                raise _explain(path, number, block, fault)
            yield arrays
            number += len(arrays[0])
            done += len(block) - len(LEAD)
            progress(path.name, min(done, total), total)


def _blocks(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Yields blocks of whole lines: `LEAD`, then lines that each end in a newline."""
    remainder = b""
    while text := _read(path, file):
        text = remainder + text
        end = text.rfind(b"\n") + 1
        remainder = text[end:]
        if len(remainder) > LINE_LIMIT:
            raise InputError(
                f"{path}: a line has over {LINE_LIMIT} bytes; check that it is a text file"
            )
        if end:
            yield LEAD + text[:end]
    if remainder:
        yield LEAD + remainder + b"\n"


def _read(path: Path, file: BinaryIO) -> bytes:
    try:
        return file.read(BLOCK)
    except OSError as error:
        error.filename = str(path)  # otherwise it would be taken for an error of writing
        raise


def check_start(path: Path, start: bytes) -> None:
    """Refuses a file that is empty, compressed or has a byte order mark, by its first bytes.

    Raises:
      InputError: the file is refused; the message gives the reason.
    """
    if not start:
        raise InputError(f"{path}: empty; get the file again")
    if start.startswith(b"\xef\xbb\xbf"):
        raise InputError(f"{path}: line 1: a byte order mark; save the file as UTF-8 without one")
    if start.startswith(COMPRESSED):
        raise InputError(f"{path}: compressed; decompress it first")


def _explain(path: Path, number: int, block: bytes, fault: Callable[[bytes], str]) -> InputError:
    """The error for the first faulty line of a block that starts at line ``number``."""
    lines = block[len(LEAD) : -1].split(b"\n")
    for line_number, line in enumerate(lines, start=number):
        if reason := fault(line):
            return line_error(path, line_number, reason)
    return InputError(f"{path}: lines {number} to {number + len(lines) - 1}: cannot be read")


def line_error(path: Path, number: int, reason: str) -> InputError:
    """The error for a faulty line; line numbers start at 1."""
    return InputError(f"{path}: line {number}: {reason}; fix the line or get the file again")


def show(text: bytes) -> str:
    """Bytes from a file as printable text for a message."""
    return repr(text[:40].decode(errors="replace")) + ("..." if len(text) > 40 else "")


def is_integer(text: bytes) -> bool:
    """Whether `Tokens.integers` accepts the text."""
    return text.isdigit() and len(text) <= MAX_DIGITS


class Malformed(Exception):
    """A line of the block is faulty."""


@dataclass(frozen=True)
class Tokens:
    """The T tokens of a block: the text between separators.

    Attributes:
      words: the 8 bytes that start at each position of the block, as little-endian uint64.
      end: (T,) position after the last byte of each token.
      length: (T,) number of bytes, at least 1.
      before: (T,) uint8, the separator before each token.
      last: (T,) uint64, the last 8 bytes of each token, see `_last_bytes`.
    """

    words: np.ndarray
    end: np.ndarray
    length: np.ndarray
    before: np.ndarray
    last: np.ndarray

    @staticmethod
    def of(block: bytes, separators: bytes) -> Tokens:
        """The tokens of a block from `parse_file`.

        Raises:
          Malformed: a token is empty.
        """
        text = np.frombuffer(block, np.uint8)
        is_separator = text == separators[0]
        for separator in separators[1:]:
            is_separator |= text == separator
        stop = np.flatnonzero(is_separator)[len(LEAD) - 1 :]
        end, length = stop[1:], np.diff(stop) - 1
        if not length.all():
            raise Malformed
        words: np.ndarray = np.ndarray((len(block) - 7,), "<u8", block, strides=(1,))
        return Tokens(words, end, length, text[stop[:-1]], _last_bytes(words, end, length))

    def integers(self, at: np.ndarray) -> np.ndarray:
        """The values of the tokens ``at``, as int64.

        Raises:
          Malformed: a token is not a number of at most `MAX_DIGITS` digits.
        """
        value = _decimal(self.last.take(at))
        length = self.length.take(at)
        if length.max(initial=0) > MAX_DIGITS:
            raise Malformed
        long = np.flatnonzero(length > 8)
        if len(long):
            end = self.end[at[long]]
            value[long] += 10**8 * _decimal(_last_bytes(self.words, end - 8, length[long] - 8))
        return value

    def matches(self, at: np.ndarray, texts: Sequence[bytes]) -> Iterator[np.ndarray]:
        """For each text, the positions in ``at`` of the tokens that equal it."""
        last = self.last[at]
        for text in texts:
            equal = np.flatnonzero(last == _key(text))
            equal = equal[self.length[at[equal]] == len(text)]
            for skip in range(8, len(text), 8):
                end = self.end[at[equal]] - skip
                earlier = _last_bytes(self.words, end, np.full(len(end), len(text) - skip))
                equal = equal[earlier == _key(text[:-skip])]
            yield equal


def _last_bytes(words: np.ndarray, end: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The last 8 bytes of tokens, xor "0": digits become their values, bytes before a token 0."""
    bits = _SPARE_BITS.take(length, mode="clip")
    return ((words[end - 8] ^ _ZEROS) >> bits) << bits


def _key(text: bytes) -> np.uint64:
    """The value of `_last_bytes` for ``text``."""
    return np.uint64(int.from_bytes(text[-8:].rjust(8, b"0"), "little")) ^ _ZEROS


def _decimal(digits: np.ndarray) -> np.ndarray:
    """The numbers whose 8 digits are the bytes of uint64 words, from the lowest byte."""
    u = np.uint64
    # A digit above 9 carries into the highest bit of its byte.
    if (((digits + u(0x7676767676767676)) | digits) & u(0x8080808080808080)).any():
        raise Malformed
    # Merge neighbours: 8 digits, 4 pairs, 2 groups of four, 1 number.
    digits = (digits * u(10) + (digits >> u(8))) & u(0x00FF00FF00FF00FF)
    digits = (digits * u(100) + (digits >> u(16))) & u(0x0000FFFF0000FFFF)
    digits = (digits * u(10000) + (digits >> u(32))) & u(0x00000000FFFFFFFF)
    return digits.astype(np.int64)
