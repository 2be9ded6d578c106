"""Kills at random times, and two writers of one output."""

import shutil

from faults.scene import TASKS, Tally, fingerprint, rng_of

WHOLE = "a kill during {} leaves its output whole or absent"
RESUMED = "a rerun of fit goes on to the same bits"
WRITERS = "two writers of one output: one is refused or waits its turn"
#: Kills of a command before it may finish.
CHAIN = 4


def kill(child, seconds):
    """Kills a child after some seconds; returns whether it was still running."""
    child.join(seconds)
    running = child.is_alive()
    child.kill()
    child.join()
    return running


def kills(scene, name, trials):
    """Kills a task; in every second chain of kills, it replaces an older output."""
    tally, resumed, hits = Tally(WHOLE.format(name)), Tally(RESUMED), 0
    expected = scene.result(name)
    for chain in range(-(-trials // CHAIN)):
        out, rng = scene.place("killed", name), rng_of(name, chain)
        older = chain % 2 and not TASKS[name].needs
        if older:
            shutil.copytree(scene.folder / "whole", out.parent, dirs_exist_ok=True)
        allowed = [expected, fingerprint(out), {}]
        for number in range(min(CHAIN, trials - chain * CHAIN)):
            child, _ = scene.start(name, out)
            hits += kill(child, scene.seconds[name] * rng.uniform(0.1, 1.05))
            whole = fingerprint(out) in allowed
            tally.add(f"{chain}.{number}", None if whole else "neither whole nor absent")
        code, told = scene.run(name, out)
        fault = None
        if code != 0:
            fault = f"exit {code}: {told[-400:]}"
        elif fingerprint(out) != expected:
            fault = "another result"
        elif left := {p.name for p in out.parent.iterdir()} - {out.name, "error"}:
            fault = f"left behind: {sorted(left)}"
        (resumed if name == "fit" else tally).add(f"{chain}, at last", fault)
    print(f"  {name}: {hits} of {trials} kills came before its end", flush=True)
    return [tally, resumed] if name == "fit" else [tally]


def two_writers(scene, names, trials):
    """Starts a task twice, the second a little later; each ends as if it were alone, or is busy."""
    tally = Tally(WRITERS)
    for name in names:
        expected = scene.result(name)
        for trial in range(trials):
            out, rng = scene.place("shared", name), rng_of("writers", name, trial)
            first, error = scene.start(name, out)
            first.join(scene.seconds[name] * rng.uniform(0, 0.9))
            second, _ = scene.start(name, out)
            first.join()
            second.join()
            codes = {first.exitcode, second.exitcode}
            right = {0} <= codes <= {0, 2, 75} and fingerprint(out) == expected
            fault = f"exit {codes}: {error.read_text()[-400:]}"
            tally.add(f"{name} {trial}", None if right else fault)
    return tally
