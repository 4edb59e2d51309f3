"""Processes of Python that need not import TensorFlow again, which takes seconds.

A server that has imported the library, and done nothing else, forks once per process: TensorFlow
starts no thread before its first operation. `run` and `Popen` take the words and most options of
those of `subprocess`, whose place they take where it is not the start of a process that is tested.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import types
import warnings
from pathlib import Path
from subprocess import DEVNULL, PIPE, CompletedProcess, TimeoutExpired

IMPORTED = (
    "tensorflow",
    "vantage.agents.base.agent",
    "vantage.envs.make",
    "vantage.envs.native.native",
    "vantage.training.supervised",
    "vantage.training.tensorboard.writer",
    "vantage.scripts.main",
)


@functools.cache
def server():
    """The socket of the server of this process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, __file__, str(theirs.fileno())]
    subprocess.run(command, pass_fds=[theirs.fileno()], start_new_session=True, check=True)
    theirs.close()
    atexit.register(ours.close)  # which ends it
    return ours


class Forked:
    """A process forked by the server, with what `subprocess.Popen` tells of one."""

    def __init__(
        self, words, *, stdin=DEVNULL, stdout=None, stderr=None, cwd=None, env=None,
        start_new_session=False, text=False,
    ):  # fmt: skip
        assert stdin == DEVNULL
        self.args, self.returncode = [str(word) for word in words], None
        request = {"words": self.args, "cwd": str(cwd or Path.cwd()), "is_new": start_new_session}
        request["env"] = dict(os.environ if env is None else env)
        level = "TF_CPP_MIN_LOG_LEVEL"  # TensorFlow reads it while it is imported
        assert request["env"].get(level) == os.environ.get(level), "only a real process obeys it"
        self._code, status = os.pipe()
        with contextlib.ExitStack() as stack:
            stack.callback(os.close, status)
            self.stdout, out = self._opened(stdout, text, stack, sys.__stdout__)
            self.stderr, err = self._opened(stderr, text, stack, sys.__stderr__)
            socket.send_fds(server(), [json.dumps(request).encode()], [out, err, status])
        self.pid = int(self._line())

    @staticmethod
    def _opened(stream, text, stack, inherited):
        """What we read of a stream, if anything, and the handle that the process gets."""
        if stream == PIPE:
            read, write = os.pipe()
            stack.callback(os.close, write)
            return open(read, "r" if text else "rb"), write
        if stream == DEVNULL:
            stream = stack.enter_context(open(os.devnull, "w"))
        return None, (stream or inherited).fileno()

    def _line(self):
        line = b""
        while not line.endswith(b"\n"):
            if not (byte := os.read(self._code, 1)):
                raise ChildProcessError("the server of forks has died")
            line += byte
        return line

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._code], [], [], timeout)[0]:
                raise TimeoutExpired(self.args, timeout)
            self.returncode = int(self._line())
            os.close(self._code)
        return self.returncode

    def poll(self):
        with contextlib.suppress(TimeoutExpired):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout=None):
        """Both streams to their ends, and the exit code."""
        said = {}

        def read(stream):
            with stream:
                said[stream] = stream.read()

        streams = [stream for stream in (self.stdout, self.stderr) if stream and not stream.closed]
        threads = [threading.Thread(target=read, args=(stream,)) for stream in streams]
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread in threads:
            thread.join()
        return said.get(self.stdout), said.get(self.stderr)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


Popen = Forked if sys.platform == "linux" else subprocess.Popen


def run(words, *, capture_output=False, timeout=300, check=False, **options):
    """`subprocess.run`."""
    if capture_output:
        options |= {"stdout": PIPE, "stderr": PIPE}
    process = Popen(words, **options)
    try:
        out, err = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        raise
    done = CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


# ------------------------------------------------------------------------- in the server's process


def python(words):
    """What `python …` does: `-W action`, then `-c code`, `-m module` or a script."""
    program, *words = words
    if Path(program) != Path(sys.executable):  # a script that names its interpreter
        words = [program, *words]
    while words[0] == "-W":
        warnings.simplefilter(words[1])
        words = words[2:]
    if words[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *words[2:]], ""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    elif words[0] == "-m":
        sys.argv, sys.path[0] = words[1:], str(Path.cwd())
        sys.modules.pop(words[1], None)  # or runpy warns that it was imported before
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = words, str(Path(words[0]).parent)
        runpy.run_path(words[0], run_name="__main__")


def become(request, out, err):
    """The process that was asked for."""
    if request["is_new"]:
        os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, 1_024)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    python(request["words"])


def watch(request, out, err, status):
    """Forks the process, and tells its number and in the end its exit code."""
    child = os.fork()
    if child == 0:
        return become(request, out, err)
    os.close(out)
    os.close(err)
    os.write(status, f"{child}\n".encode())
    _, code = os.waitpid(child, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(code)}\n".encode())
    os._exit(0)


def serve(requests):
    for module in IMPORTED:
        importlib.import_module(module)
    gc.freeze()  # or each process looks through all of it, and copies it, when it ends
    while True:
        message, handles, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not message:
            return
        if os.fork() == 0:
            return watch(json.loads(message), *handles)
        for handle in handles:
            os.close(handle)
        with contextlib.suppress(ChildProcessError):  # watchers that have ended
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


if __name__ == "__main__":
    if os.fork():  # it is no child of the tests, some of which send signals to all of theirs
        os._exit(0)
    serve(socket.socket(fileno=int(sys.argv[1])))
