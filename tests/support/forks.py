"""Scripts that run in processes of their own without importing the library again.

A process that has imported it, and done nothing else, forks once per script: TensorFlow starts no
thread before its first operation.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

LIMIT = 300  # seconds of a script


@contextlib.contextmanager
def imported(*flags):
    """A function that runs a script in its folder: (exit code, stdout, stderr)."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *flags, __file__], **pipes) as server:

        def run(script):
            server.stdin.write(f"{json.dumps(str(script))}\n")
            server.stdin.flush()
            code = json.loads(server.stdout.readline())
            out, err = (script.with_suffix(end).read_text() for end in (".out", ".err"))
            return code, out, err

        yield run
        server.stdin.close()


def run_here(script):
    """The script as `python script` would run it, in the process that was just forked."""
    signal.alarm(LIMIT)
    for stream, end in ((sys.stdout, ".out"), (sys.stderr, ".err")):
        os.dup2(os.open(script.with_suffix(end), os.O_WRONLY | os.O_CREAT), stream.fileno())
    os.chdir(script.parent)
    sys.argv, sys.path[0] = [str(script)], str(script.parent)
    runpy.run_path(str(script), run_name="__main__")


def serve():
    import vantage.envs
    import vantage.training  # noqa: F401
    from vantage.agents import A2C, DQN, PPO, SAC, TD3  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run_here(Path(json.loads(line)))
            sys.exit()
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
