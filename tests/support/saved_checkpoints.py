"""Checkpoints of known content, and scripts about them in processes of their own."""

from __future__ import annotations

import contextlib
import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def content(number):
    """Arrays and a manifest that all tell the same number."""
    arrays = {"w": np.full((3, 50), number, np.float32), "b": np.array(number)}
    return arrays, {"n": number, "run": {"events": {}}}


def number_of(arrays, manifest):
    """The number that a checkpoint holds, in every place the same."""
    number = manifest["n"]
    for name, array in content(number)[0].items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    return number


def dotted(folder):
    """What is hidden there, as a half-written file would be."""
    return [path.name for path in Path(folder).rglob(".*")]


HARNESS = """
import errno, json, os, resource, shutil, stat, sys, warnings
from pathlib import Path
import numpy as np

warnings.simplefilter("error")
from vantage.training.storage.checkpoint import load_checkpoint, save_checkpoint
from vantage.training.runs.folder import Folder, find_checkpoint

NAMES = ("open write pwrite fsync fdatasync close mkdir rename replace link symlink unlink remove "
         "rmdir truncate ftruncate lseek").split()
REAL = {name: getattr(os, name) for name in NAMES}

class Faults:
    "Counts the calls of `os`; `do(name, real, arguments)` stands for the k-th one."
    def __init__(self, k, do, later=False):
        self.k, self.do, self.later, self.count, self.names = k, do, later, 0, []
    def __enter__(self):
        for name, real in REAL.items():
            setattr(os, name, self.wrapped(name, real))
        return self
    def __exit__(self, *_):
        for name, real in REAL.items():
            setattr(os, name, real)
    def wrapped(self, name, real):
        def call(*args, **keywords):
            self.count += 1
            self.names.append(name)
            if self.count == self.k or (self.later and self.count > self.k):
                return self.do(name, real, args, keywords)
            return real(*args, **keywords)
        return call

def new_step(top):
    folder = Folder(top / "run", {}, resume=True)
    return lambda: folder.save(3, *content(3)), folder

def same_step(top):
    folder = Folder(top / "run", {}, resume=True)
    return lambda: folder.save(2, *content(3)), folder

def best(top):
    folder = Folder(top / "run", {}, resume=True)
    return lambda: folder.save_best(*content(3)), folder

def agent(top):
    return lambda: save_checkpoint(top / "agent", *content(3)), None

def first(top):
    shutil.rmtree(top / "run")
    folder = Folder(top / "run", {})
    return lambda: folder.save(3, *content(3)), folder

def only_step(top):  # with the best agent and the summary of a run that had ended, and went on
    shutil.rmtree(top / "run" / "checkpoints" / "step-000000000001")
    (top / "run" / "summary.json").write_text("{}")
    return same_step(top)

SCENARIOS = {f.__name__: f for f in (new_step, same_step, best, agent, first, only_step)}

def base(top):
    folder = Folder(top / "run", {})
    folder.save(1, *content(1))
    folder.save(2, *content(2))
    folder.save_best(*content(2))
    folder.close()
    save_checkpoint(top / "agent", *content(2))

def check(name, top, ended):
    "What must be true of the disk after a fault in a scenario; `ended`: the save returned."
    run, new = top / "run", {3} if ended else {2, 3}
    if name == "agent":
        assert number_of(*load_checkpoint(top / "agent")) in new
        save_checkpoint(top / "agent", *content(4))
        assert number_of(*load_checkpoint(top / "agent")) == 4
        assert not (top / ".agent.old").exists()
        return
    if name == "best":
        assert number_of(*load_checkpoint(run / "checkpoints" / "best")) in new
        new = {2}
    elif name not in ("first", "only_step"):
        assert number_of(*find_checkpoint(run)[1:3]) in {1, *new}
    folder = Folder(run, {}, resume=True)
    assert dotted(run) == [".lock"], dotted(run)
    if name == "first" and not ended:
        assert folder.saved is None or number_of(*folder.saved[1:3]) == 3
    else:
        assert number_of(*folder.saved[1:3]) in new, folder.saved[0]
    if name == "best":
        assert number_of(*load_checkpoint(run / "checkpoints" / "best")) in {2, 3}
    folder.save(4, *content(4))
    folder.close()
    assert number_of(*find_checkpoint(run)[1:3]) == 4
    assert len(list((run / "checkpoints").glob("step-*"))) <= 2
    assert dotted(run) == []
"""


@contextlib.contextmanager
def in_memory():
    """A folder in memory, where there is such a thing: hundreds of saves wait for no disk."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def script(body, *arguments, timeout=60):
    """Runs the harness and `body` in a process of its own; what it prints."""
    own = "\n".join(inspect.getsource(function) for function in (content, number_of, dotted))
    done = subprocess.run(
        [sys.executable, "-c", f"{HARNESS}\n{own}\n{body}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout
