"""Damages that a disk, a copy or an editor does to a file."""

import contextlib
import resource


def flip(content, rng):
    at = rng.integers(len(content))
    return content[:at] + bytes([content[at] ^ (1 << rng.integers(8))]) + content[at + 1 :]


DAMAGES = {
    "a bit": flip,
    "the end": lambda content, rng: content[: rng.integers(len(content))],
    "all": lambda content, rng: b"",
    "zeros": lambda content, rng: bytes(len(content)),
    "noise": lambda content, rng: rng.bytes(len(content)),
    "more": lambda content, rng: content + rng.bytes(1 + rng.integers(99)),
    "the file": lambda content, rng: None,
}


def inflict(path, damage, rng):
    """Damages a file by name; "the file" removes it."""
    content = DAMAGES[damage](path.read_bytes(), rng)
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@contextlib.contextmanager
def largest_file(size):
    """Limits the size of files, so that writes fail as on a full disk; needs no privileges."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
