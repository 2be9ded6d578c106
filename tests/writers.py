"""Other processes that hold the lock of a file or folder."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

PROGRAM = """
import os, signal, sys
from pathlib import Path
from metaheac_jax.files import locked
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
print(flush=True)
for line in sys.stdin:
    if os.fork() == 0:
        with locked(Path(line.rstrip())):
            print(os.getpid(), flush=True)
            signal.sigwait({signal.SIGUSR1})
        os._exit(0)
"""


class Writers:
    """Starts these processes by forking one process, which is ready in a second."""

    def __init__(self):
        words = [sys.executable, "-W", "ignore", "-c", PROGRAM]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        self._parent = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._parent.stdout.readline()

    @contextmanager
    def of(self, target):
        """Yields the id of a process that has locked the target; kills it at the end."""
        self._parent.stdin.write(f"{target}\n")
        self._parent.stdin.flush()
        process = int(self._parent.stdout.readline())
        try:
            yield process
        finally:
            if is_alive(process):
                os.kill(process, signal.SIGKILL)
                wait_for_end(process)

    def close(self):
        self._parent.communicate()


def release(process):
    """Lets a process go on to its end."""
    os.kill(process, signal.SIGUSR1)


def is_alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_end(process):
    while is_alive(process):
        time.sleep(0.001)
