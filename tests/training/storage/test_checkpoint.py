"""Checkpoints under fire: processes that die, disks that fail, bits that flip, files that lie.

Damage is done by real processes with real files, in scripts that know neither TensorFlow nor an
agent: `vantage.training.storage.checkpoint` and `.folder` answer for themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vantage.training.runs.folder import Folder, find_checkpoint
from vantage.training.storage.checkpoint import _sealed, load_checkpoint, save_checkpoint
from vantage.training.storage.packing import pack, unpack

RANDOM = np.random.default_rng(0)


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

CRASH = """
def crash(mode):
    def do(name, real, args, keywords):
        try:
            if mode == "half" and name == "write":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            elif mode == "after":
                real(*args, **keywords)
        finally:
            os._exit(9)
    return do

def scenario(name, mode, here):
    k = ended = 0
    while not ended:
        k += 1
        top = here / f"{name}-{mode}-{k}"
        shutil.copytree(here / "base", top)
        child = os.fork()
        if not child:
            try:
                save, folder = SCENARIOS[name](top)
                with Faults(k, crash(mode)):
                    save()
                os._exit(0)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (0, 9), code
        ended = code == 0
        try:
            check(name, top, ended)
        except BaseException as error:
            error.add_note(f"{name}: died {mode} call {k}")
            raise
        shutil.rmtree(top)
    return k - 1

here = Path(sys.argv[1])
base(here / "base")
for mode in ("before", "after", "half"):
    calls = scenario(sys.argv[2], mode, here)
print(calls)
"""

FAILURE = """
def scenario(name, number, later, here):
    k, ended = 0, False
    def fail(called, real, args, keywords):
        if called == "close":
            of_folder = stat.S_ISDIR(os.fstat(args[0]).st_mode)
            real(*args)
            if of_folder:  # nothing was written there; and shutil.rmtree would close it again
                return
        raise OSError(number, os.strerror(number))
    while not ended:
        k += 1
        top = here / f"{name}-{number}-{later}-{k}"
        shutil.copytree(here / "base", top)
        save, folder = SCENARIOS[name](top)
        with Faults(k, fail, later) as faults:
            try:
                save()
                returned = True
            except OSError as error:
                assert error.errno == number
                returned = False
        if folder is not None:
            folder.close()
        ended = faults.count < k
        try:
            check(name, top, returned)
        except BaseException as error:
            error.add_note(f"{name}: {os.strerror(number)} at call {k}: {faults.names[k - 1]}")
            raise
        shutil.rmtree(top)
    return k - 1

here = Path(sys.argv[1])
base(here / "base")
for number in (errno.ENOSPC, errno.EACCES, errno.EROFS):
    for later in (False, True):
        calls = scenario(sys.argv[2], number, later, here)
print(calls)
"""

SCENARIOS = ("new_step", "same_step", "best", "agent", "first", "only_step")


@contextlib.contextmanager
def in_memory():
    """A folder in memory, where there is such a thing: hundreds of saves wait for no disk."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def quick():
    with in_memory() as folder:
        yield folder


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


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_process_may_die_at_any_call_of_a_save(quick, name):
    """Before the call, after it, and in the middle of every write."""
    assert int(script(CRASH, quick, name)) >= 15  # calls; none of them escapes the harness


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_disk_may_fail_at_any_call_of_a_save(quick, name):
    """Once, or from that call on; full, forbidden, or read-only."""
    assert int(script(FAILURE, quick, name)) >= 15


RECOVERY = """
exec(CRASH.split("def scenario")[0])

here = Path(sys.argv[1])
base(here / "base")
run = here / "base" / "run"
for name in ("checkpoints/.step-000000000003.77", "checkpoints/.best.78"):
    (run / name).mkdir()
    (run / name / "tensors.safetensors").write_bytes(b"half")
(run / "checkpoints" / "best").rename(run / "checkpoints" / ".best.old")
(run / ".config.json.77").write_text("{")
(run / "events.out.tfevents.1.vantage").write_bytes(b"points")
damaged = run / "checkpoints" / "step-000000000002" / "tensors.safetensors"
damaged.write_bytes(damaged.read_bytes()[:-1])
kept, k, code = damaged.read_bytes(), 0, 9
warnings.simplefilter("ignore")
while code:
    k += 1
    top = here / str(k)
    shutil.copytree(here / "base", top)
    child = os.fork()
    if not child:
        with Faults(k, crash("after")):
            Folder(top / "run", {}, resume=True)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), code
    folder = Folder(top / "run", {}, resume=True)
    assert number_of(*folder.saved[1:3]) == 1
    folder.close()
    (aside,) = (top / "run" / "checkpoints").glob("damaged-*")
    assert (aside / "tensors.safetensors").read_bytes() == kept
    assert number_of(*load_checkpoint(top / "run" / "checkpoints" / "best")) == 2
    assert dotted(top / "run") == []
print(k - 1)
"""


def test_a_process_may_die_while_it_recovers(quick):
    assert int(script(f"CRASH = {CRASH!r}\n{RECOVERY}", quick)) >= 10


START = """
exec(CRASH.split("def scenario")[0])

here, k, code = Path(sys.argv[1]), 0, 9
while code:
    k += 1
    child = os.fork()
    if not child:
        with Faults(k, crash("half")):
            Folder(here / str(k), {"seed": 1})
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), code
    folder = Folder(here / str(k), {"seed": 1}, resume=True)
    assert folder.saved is None
    folder.close()
    assert json.loads((here / str(k) / "config.json").read_text()) == {"seed": 1}
    assert dotted(here / str(k)) == []
print(k - 1)
"""


def test_a_process_may_die_while_it_begins_a_run(quick):
    assert int(script(f"CRASH = {CRASH!r}\n{START}", quick)) >= 8


LIMIT = """
here = Path(sys.argv[1])
base(here / "base")
for big in (False, True):  # the tensors are the larger file, or the manifest is
    arrays, manifest = content(3)
    manifest["text"] = "x" * (10_000 if big else 0)
    save_checkpoint(here / "sizes", arrays, manifest)
    sizes = {path.stat().st_size for path in (here / "sizes").iterdir()}
    header = int.from_bytes((here / "sizes" / "tensors.safetensors").read_bytes()[:8], "little")
    limits = {0, 1, 7, 8, 9, header, header + 8}
    for size in sizes:
        limits |= {size // 2, size - 1, size, size + 1}
    for limit in sorted(limits):
        for name in ("new_step", "same_step", "best", "agent"):
            top = here / f"{big}-{limit}-{name}"
            shutil.copytree(here / "base", top)
            folder = None if name == "agent" else Folder(top / "run", {}, resume=True)
            save = {
                "new_step": lambda: folder.save(3, arrays, manifest),
                "same_step": lambda: folder.save(2, arrays, manifest),
                "best": lambda: folder.save_best(arrays, manifest),
                "agent": lambda: save_checkpoint(top / "agent", arrays, manifest),
            }[name]
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            try:
                save()
                returned = True
            except OSError as error:
                assert error.errno == errno.EFBIG, error
                returned = False
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert returned == (limit >= max(sizes)), (limit, sizes)
            if folder is not None:
                assert dotted(top / "run") == [".lock"]
                folder.close()
            check(name, top, returned)
"""


def test_files_that_must_not_grow_larger(quick):
    """RLIMIT_FSIZE: the system itself refuses bytes, in the middle of a write."""
    script(LIMIT, quick)


ORDER = """
top = Path(sys.argv[1])
base(top)
save, folder = SCENARIOS["same_step"](top)
seen, paths = [], {}

def note(name, real, args, keywords):
    result = real(*args, **keywords)
    if name == "open" and "dir_fd" not in keywords:
        paths[result] = Path(args[0]).name
    if name in ("write", "fsync"):
        seen.append((name, paths[args[0]]))
    if name in ("rename", "replace"):
        seen.append((name, Path(args[1]).name))
    return result

with Faults(1, note, later=True):
    save()
(hidden,) = {name for what, name in seen if what == "fsync" and name.startswith(".step-")}
steps = [what for what in seen if what[0] != "write"]
for name in ("tensors.safetensors", "manifest.json"):
    written = max(i for i, what in enumerate(seen) if what == ("write", name))
    assert seen.index(("fsync", name)) > written, seen
    assert seen.index(("fsync", name)) < seen.index(("fsync", hidden)), seen
placed = seen.index(("rename", "step-000000000002"))
assert seen.index(("fsync", hidden)) < placed, seen
assert ("fsync", "checkpoints") in seen[placed:], seen
"""


def test_the_disk_has_every_byte_before_it_gets_its_name(tmp_path):
    """What a power cut would need: files, then their folder, then the rename, then its folder."""
    script(ORDER, tmp_path)


@pytest.fixture
def run(tmp_path):
    """The folder of a run with the checkpoints 1, 2 and 3."""
    folder = Folder(tmp_path / "run", {}, keep=3)
    for number in (1, 2, 3):
        folder.save(number, *content(number))
    folder.close()
    return tmp_path / "run"


def at(run, number):
    return run / "checkpoints" / f"step-{number:012d}"


def assert_refused(path):
    with pytest.raises(ValueError, match="Received: ") as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1_000


def test_no_flipped_bit_goes_unseen(run):
    files = sorted(at(run, 3).iterdir())
    assert len(files) == 2
    originals = [file.read_bytes() for file in files]
    for flip in range(100):
        file, original = files[flip % 2], originals[flip % 2]
        place, bit = RANDOM.integers(len(original)), RANDOM.integers(8)
        damaged = bytearray(original)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        assert_refused(at(run, 3))
        file.write_bytes(original)
    assert number_of(*load_checkpoint(at(run, 3))) == 3


def test_no_cut_goes_unseen(run):
    for file in sorted(at(run, 3).iterdir()):
        original = file.read_bytes()
        for length in (0, 1, 7, 8, 9, *RANDOM.integers(10, len(original), 5), len(original) - 1):
            file.write_bytes(original[:length])
            assert_refused(at(run, 3))
        for more in (b"\0", b" ", b"\n", original):
            file.write_bytes(original + more)
            assert_refused(at(run, 3))
        file.write_bytes(original)
    assert number_of(*load_checkpoint(at(run, 3))) == 3


def swap(run, name):
    first, second = at(run, 2) / name, at(run, 3) / name
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def another_manifest(run):
    save_checkpoint(run.parent / "other", {"w": np.zeros(3)}, {"n": 3})
    shutil.copy(run.parent / "other" / "manifest.json", at(run, 3))


DAMAGE = {
    "no manifest": lambda run: (at(run, 3) / "manifest.json").unlink(),
    "no tensors": lambda run: (at(run, 3) / "tensors.safetensors").unlink(),
    "neither": lambda run: [path.unlink() for path in at(run, 3).iterdir()],
    "another run's manifest": another_manifest,
    "older tensors": lambda run: shutil.copy(at(run, 2) / "tensors.safetensors", at(run, 3)),
    "older manifest": lambda run: shutil.copy(at(run, 2) / "manifest.json", at(run, 3)),
    "zeros": lambda run: (at(run, 3) / "tensors.safetensors").write_bytes(b"\0" * 800),
    "folders for files": lambda run: [(p.unlink(), p.mkdir()) for p in at(run, 3).iterdir()],
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_checkpoint_is_kept_aside_and_the_one_before_goes_on(run, name):
    DAMAGE[name](run)
    assert_refused(at(run, 3))
    rest = sorted(path.relative_to(at(run, 3)) for path in at(run, 3).rglob("*"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = Folder(run, {}, resume=True, keep=3)
    assert number_of(*folder.saved[1:3]) == 2
    (warning,) = caught
    text = str(warning.message)
    assert warning.category is RuntimeWarning and "\n" not in text
    assert "step-000000000003: A checkpoint" in text and "going on from step-000000000002" in text
    aside = run / "checkpoints" / "damaged-step-000000000003"
    assert sorted(path.relative_to(aside) for path in aside.rglob("*")) == rest
    folder.save(3, *content(4))  # comes to the same step again
    folder.close()
    assert aside.is_dir() and number_of(*find_checkpoint(run)[1:3]) == 4


def test_swapped_files_are_seen_in_both(run):
    for name in ("manifest.json", "tensors.safetensors"):
        swap(run, name)
        assert_refused(at(run, 2))
        assert_refused(at(run, 3))
        with pytest.warns(RuntimeWarning, match="going on from step-000000000001") as caught:
            assert number_of(*find_checkpoint(run)[1:3]) == 1
        assert len(caught) == 1
        swap(run, name)
    assert number_of(*find_checkpoint(run)[1:3]) == 3


def test_when_all_are_damaged_it_starts_afresh_and_deletes_nothing(run):
    tensors = {}
    for number in (1, 2, 3):
        file = at(run, number) / "tensors.safetensors"
        tensors[number] = file.read_bytes()[:-number]
        file.write_bytes(tensors[number])
    (run / "events.out.tfevents.1.vantage").write_bytes(b"points")
    with pytest.warns(RuntimeWarning, match="starting afresh") as caught:
        folder = Folder(run, {"seed": 2}, resume=True)
    assert len(caught) == 1 and folder.saved is None
    for number in (1, 2, 3):
        assert at(run, number).name in str(caught[0].message)
        aside = run / "checkpoints" / f"damaged-{at(run, number).name}"
        assert (aside / "tensors.safetensors").read_bytes() == tensors[number]
    assert (run / "events.out.abandoned.1.vantage").read_bytes() == b"points"
    assert json.loads((run / "config.json").read_text()) == {"seed": 2}
    for number in (1, 2, 3):
        folder.save(number, *content(number))
    folder.close()
    assert len(list((run / "checkpoints").glob("damaged-*"))) == 3


def test_only_what_is_newer_is_given_up(run):
    """An older damaged one is no reason to warn."""
    (at(run, 1) / "manifest.json").write_bytes(b"")
    assert number_of(*find_checkpoint(run)[1:3]) == 3


def test_a_lock_that_cannot_be_written_is_given_back(tmp_path, monkeypatch):
    def full(handle, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            Folder(tmp_path / "run", {})
    Folder(tmp_path / "run", {}).close()


def test_a_checkpoint_behind_a_link_may_be_replaced_again_and_again(tmp_path):
    save_checkpoint(tmp_path / "real", *content(1))
    (tmp_path / "link").symlink_to(tmp_path / "real")
    for number in (2, 3, 4):
        save_checkpoint(tmp_path / "link", *content(number))
        assert number_of(*load_checkpoint(tmp_path / "link")) == number
    assert dotted(tmp_path) == []


def test_what_was_saved_can_be_loaded(tmp_path):
    """A save that loading would refuse must be refused itself: 10**5 names are a long header."""
    arrays = {f"environment/{index}": np.zeros(1) for index in range(10**5)}
    try:
        save_checkpoint(tmp_path / "many", arrays, {})
    except ValueError:
        assert list(tmp_path.iterdir()) == []
    else:
        assert load_checkpoint(tmp_path / "many")[0].keys() == arrays.keys()


# Files that somebody made up.


class Canary:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def reseal(path, **changes):
    """Changes the manifest as a forger would: its digest is right again."""
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["digest"]
    (path / "manifest.json").write_bytes(_sealed({**manifest, **changes}))


def forge_tensors(path, data):
    (path / "tensors.safetensors").write_bytes(data)
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    reseal(path, files={"tensors.safetensors": entry})


def header(text, data=b""):
    return len(text).to_bytes(8, "little") + text + data


def tensor(shape, ends, dtype="F32"):
    entry = {"dtype": dtype, "shape": shape, "data_offsets": ends}
    return json.dumps({"w": entry}).encode()


def listed(name):
    """A manifest that lists a file elsewhere, which exists and has the right digest."""

    def forge(path):
        target = Path(os.path.join(path, name))
        data = (path / "tensors.safetensors").read_bytes()
        target.write_bytes(data)
        entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (path / "tensors.safetensors").unlink()
        reseal(path, files={name: entry})

    return forge


def linked(name):
    def forge(path):
        (path / name).rename(path.parent / "elsewhere")
        (path / name).symlink_to(path.parent / "elsewhere")

    return forge


def pipe(name):
    def forge(path):
        (path / name).unlink()
        os.mkfifo(path / name)

    return forge


def device(path):
    (path / "tensors.safetensors").unlink()
    (path / "tensors.safetensors").symlink_to("/dev/zero")


def sparse(name, size):
    def forge(path):
        os.truncate(path / name, size)
        if name.startswith("tensors"):
            reseal(path, files={name: {"size": size, "sha256": "0" * 64}})

    return forge


def in_manifest(old, new):
    """Puts text where there was other text, and leaves the seal."""

    def forge(path):
        text = (path / "manifest.json").read_text()
        assert text.count(old) == 1
        (path / "manifest.json").write_text(text.replace(old, new))

    return forge


def pickled(path, name):
    data = pickle.dumps(Canary(path.parent / "canary"))
    if name == "manifest.json":
        (path / name).write_bytes(data)
    else:
        forge_tensors(path, data)


ELSEWHERE = f"{tempfile.gettempdir()}/vantage-{os.getpid()}-tensors.safetensors"
DEEP = b"[" * 10**4 + b"]" * 10**4


def million(path):
    entry = '"%d":{"dtype":"U8","shape":[],"data_offsets":[%d,%d]}'
    entries = ",".join(entry % (index, index, index + 1) for index in range(10**6))
    forge_tensors(path, header(f"{{{entries}}}".encode(), b"\0" * 10**6))


HOSTILE = {
    "pickled manifest": lambda path: pickled(path, "manifest.json"),
    "pickled tensors": lambda path: pickled(path, "tensors.safetensors"),
    "file outside": listed("../tensors.safetensors"),
    "file at the root": listed(ELSEWHERE),
    "files a list": lambda path: reseal(path, files=["tensors.safetensors"]),
    "file a number": lambda path: reseal(path, files={"tensors.safetensors": 1}),
    "no files": lambda path: reseal(path, files={}),
    "size a text": lambda path: reseal(
        path, files={"tensors.safetensors": {"size": "1", "sha256": 1}}
    ),
    "schema an object": lambda path: reseal(path, schema={"a": [2]}),
    "linked manifest": linked("manifest.json"),
    "linked tensors": linked("tensors.safetensors"),
    "endless device": device,
    "manifest a pipe": pipe("manifest.json"),
    "tensors a pipe": pipe("tensors.safetensors"),
    "shape of 1 TB": lambda path: forge_tensors(
        path, header(tensor([2**38], [0, 2**40]), b"\0" * 8)
    ),
    "shape that overflows": lambda path: forge_tensors(path, header(tensor([2**62, 8], [0, 0]))),
    "negative shape": lambda path: forge_tensors(path, header(tensor([-1], [0, 4]), b"\0" * 4)),
    "unknown dtype": lambda path: forge_tensors(
        path, header(tensor([1], [0, 4], "F99"), b"\0" * 4)
    ),
    "offsets outside": lambda path: forge_tensors(path, header(tensor([2], [4, 12]), b"\0" * 8)),
    "empty header": lambda path: forge_tensors(path, header(b"")),
    "header longer than the file": lambda path: forge_tensors(path, b"\xff\xff\0\0\0\0\0\0{}"),
    "header of 2**64 bytes": lambda path: forge_tensors(path, b"\xff" * 8 + b"{}"),
    "manifest of 1 TB": sparse("manifest.json", 2**40),
    "tensors of 1 TB": sparse("tensors.safetensors", 2**40),
    "tensors of 8 GB": lambda path: os.truncate(path / "tensors.safetensors", 2**33),
    "10**6 tensors": million,
    "deep manifest": lambda path: (path / "manifest.json").write_bytes(DEEP),
    "deep entry": in_manifest('"n": 3', f'"n": {DEEP.decode()}'),
    "deep header": lambda path: forge_tensors(path, header(DEEP)),
    "deep metadata": lambda path: forge_tensors(path, header(b'{"__metadata__":' + DEEP + b"}")),
    "NaN": in_manifest('"n": 3', '"n": NaN'),
    "Infinity": in_manifest('"n": 3', '"n": -Infinity'),
    "infinity by exponent": in_manifest('"n": 3', '"n": 1e999'),
    "integer of 10**4 digits": in_manifest('"n": 3', f'"n": {"7" * 10**4}'),
    "duplicate key": in_manifest('"n": 3', '"n": 3,\n "n": 3'),
    "manifest of 100 MB": lambda path: (path / "manifest.json").write_bytes(
        b'"' + b"x" * 10**8 + b'"'
    ),
    "UTF-16": lambda path: (path / "manifest.json").write_bytes(
        (path / "manifest.json").read_text().encode("utf-16")
    ),
    "not UTF-8": lambda path: (path / "manifest.json").write_bytes(b'{"\xff": 1}'),
}

LOAD = """
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
for path in sorted(Path(sys.argv[1]).iterdir()):
    print(json.dumps([path.name]), flush=True)  # so that one that hangs has its name
    try:
        load_checkpoint(path / "step")
        said = ["loaded", ""]
    except BaseException as error:
        said = [type(error).__name__, str(error)]
    print(json.dumps([path.name, *said]), flush=True)
status = Path("/proc/self/status").read_text()  # ru_maxrss counts from the fork on
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module")
def hostile():
    """What loading said of every hostile checkpoint, and the most memory it took, in kB."""
    with in_memory() as top:
        for name, forge in HOSTILE.items():
            path = top / name / "step"
            save_checkpoint(path, *content(3))
            forge(path)
        try:
            lines = [json.loads(line) for line in script(LOAD, top).splitlines()]
        finally:
            Path(ELSEWHERE).unlink()
        assert not list(top.rglob("canary")), "it sang"
    memory = lines.pop()
    return {line[0]: line[1:] for line in lines}, memory


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_clear_line(hostile, name):
    kind, text = hostile[0][name]
    assert kind == "ValueError", text
    assert "Received: " in text and "\n" not in text and len(text) < 1_000


def test_hostile_files_take_no_memory(hostile):
    assert hostile[1] < 1_000_000  # kB, TensorFlow not being there


def test_the_canary_would_sing(tmp_path):
    """The control: it is a pickle that leaves a trace."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


def test_links_are_no_checkpoints_of_a_run(run, tmp_path):
    save_checkpoint(tmp_path / "stranger", *content(9))
    (at(run, 9)).symlink_to(tmp_path / "stranger")
    (at(run, 10)).symlink_to(tmp_path / "nowhere")
    assert number_of(*find_checkpoint(run)[1:3]) == 3
    folder = Folder(run, {}, resume=True)
    folder.save(4, *content(4))
    folder.close()
    assert number_of(*load_checkpoint(tmp_path / "stranger")) == 9  # nor is anything removed there
    assert number_of(*find_checkpoint(run)[1:3]) == 4


def test_temporary_links_are_removed_and_not_followed(run, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    (run / "checkpoints" / ".step-000000000004.77").symlink_to(tmp_path / "thesis")
    (run / ".config.json.77").symlink_to(tmp_path / "thesis" / "chapter.tex")
    Folder(run, {}, resume=True).close()
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"
    assert dotted(run) == []


# Nested states.

DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()


@st.composite
def arrays_(draw):
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    bits = draw(st.binary(min_size=64, max_size=64))
    flat = np.resize(np.frombuffer(bits, np.uint8), int(np.prod(shape)) * dtype.itemsize)
    if dtype.kind == "b":
        return (flat % 2).astype(bool).reshape(shape)
    array = flat.view(dtype).reshape(shape)
    return np.where(np.isfinite(array), array, 0).astype(dtype) if dtype.kind == "f" else array


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(2**127, 2**128),  # as a generator's state
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    arrays_(),
    arrays_().filter(lambda array: array.size).map(lambda array: array.reshape(-1)[0]),
)
KEYS = st.one_of(st.sampled_from(["a", "b", "a/b", "b/1", "a/b/2", "", "/", "0", "1"]), st.text())
KEYS = KEYS.filter(lambda key: not key.startswith("__") and key.isprintable())
NESTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.dictionaries(KEYS, inner, max_size=4),
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
    ),
    max_leaves=12,
)


def assert_same(first, second):
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    elif isinstance(first, np.ndarray | np.generic):
        assert (first.dtype, first.shape) == (second.dtype, second.shape)
        assert first.tobytes() == second.tobytes()
    else:
        assert first == second and str(first) == str(second)  # of floats: the sign of zero


@settings(max_examples=150, deadline=None)
@example({"a": {"b": np.zeros(1), "b/2": np.ones(1)}, "a/b": np.full(1, 2.0)})
@example({"a": np.float64(-0.0), "b": -0.0, "c": (), "d": [], "e": {}, "f": np.zeros((0, 3))})
@given(NESTS)
def test_nested_states_come_back_bit_for_bit(tmp_path_factory, nest):
    """Through the files and all."""
    arrays, packed = pack("state", nest)
    path = tmp_path_factory.getbasetemp() / "nested"
    save_checkpoint(path, arrays, {"state": packed})
    loaded, manifest = load_checkpoint(path)
    assert_same(nest, unpack(manifest["state"], loaded))


@pytest.mark.parametrize(
    "values",
    [[0.1] * 1000, list(range(-500, 500)), [True, False] * 500, [1, 2.0] * 500, [2**70] * 1000]
    + [["a"] * 1000, [0.5] * 5, [[1] * 300, (2.5,) * 300]],
    ids=str,
)
def test_long_lists_come_back_with_their_types(values, tmp_path):
    """Those of numbers of one type as an array, so that a manifest does not grow with them."""
    nest = {"list": values, "tuple": tuple(values)}
    arrays, packed = pack("nest", nest)
    save_checkpoint(tmp_path / "saved", arrays, {"nest": packed})
    arrays, manifest = load_checkpoint(tmp_path / "saved")
    again = unpack(manifest["nest"], arrays)
    assert repr(again) == repr(nest)
    if values[:2] in ([0.1, 0.1], [-500, -499], [True, False]):
        assert len(json.dumps(packed)) < 200


def test_a_manifest_that_could_not_be_read_is_not_written(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "saved", {"w": np.zeros(3)}, {"n": 1})
    monkeypatch.setattr("vantage.training.storage.checkpoint.MOST_JSON", 5_000)
    with pytest.raises(ValueError, match="at most 5,000 bytes and few items. Received: "):
        save_checkpoint(tmp_path / "saved", {"w": np.zeros(3)}, {"n": ["text"] * 1000})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="and few items. Received: 300,0.* items, more than 262,"):
        save_checkpoint(tmp_path / "saved", {"w": np.zeros(3)}, {"n": [0] * 300_000})
    assert load_checkpoint(tmp_path / "saved")[1]["n"] == 1


@pytest.mark.parametrize("part", [b"[],", b"{},", b"0,", b'"",'])
def test_a_manifest_of_many_items_is_refused_before_it_is_parsed(part, tmp_path):
    """Its objects would take 70 times the memory of the file."""
    save_checkpoint(tmp_path / "saved", {"w": np.zeros(3)}, {"n": 1})
    (tmp_path / "saved" / "manifest.json").write_bytes(b"[" + part * 300_000 + b"0]")
    tracemalloc.start()
    with pytest.raises(ValueError, match="items, more than 262,144"):
        load_checkpoint(tmp_path / "saved")
    assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    tracemalloc.stop()


def test_arrays_of_any_layout_come_back(tmp_path):
    base = np.arange(24.0).reshape(4, 6)
    nest = {"fortran": np.asfortranarray(base), "strided": base[::2, ::-3], "turned": base.T}
    big = {"big-endian": base.astype(">f4"), "shorts": np.arange(5, dtype=">i2")}
    arrays, packed = pack("state", nest | big)
    save_checkpoint(tmp_path / "x", arrays, {"state": packed})
    loaded, manifest = load_checkpoint(tmp_path / "x")
    found = unpack(manifest["state"], loaded)
    for name, array in (nest | big).items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype.newbyteorder("=")


cycle: list = []
cycle.append(cycle)
UNPACKABLE = {
    "object": object(),
    "objects": np.array([None, {}], object),
    "texts": np.array(["a"]),
    "a text of NumPy": np.str_("a"),
    "dates": np.array(["2020-01-01"], "datetime64[D]"),
    "complex": np.zeros(2, complex),
    "complex number": 1j,
    "longdouble": np.zeros(2, np.longdouble),
    "a longdouble": np.longdouble(1),
    "records": np.zeros(2, [("a", "f4")]),
    "NaN": float("nan"),
    "infinity": -float("inf"),
    "set": {1, 2},
    "bytes": b"abc",
    "numbers as keys": {1: 2},
    "marks as keys": {"__array__": "w"},
    "deep": json.loads("[" * 900 + "]" * 900),
    "endless": cycle,
}


@pytest.mark.parametrize("name", UNPACKABLE)
def test_what_cannot_be_packed_is_a_value_error(name):
    with pytest.raises(ValueError, match=r"must hold.*Received: .*Convert") as caught:
        pack("state", {"a": [UNPACKABLE[name]]})
    assert "\n" not in str(caught.value)


FORGED = {
    "missing": {"__array__": "nothing"},
    "missing scalar": {"__scalar__": "nothing"},
    "scalar of an array": {"__scalar__": "w"},
    "a list as name": {"__array__": []},
    "an object as name": {"__array__": {}},
    "a number as name": {"__scalar__": 1},
    "null": {"__array__": None},
    "tuple of a number": {"__tuple__": 3},
    "tuple of null": {"__tuple__": None},
    "tuple of a text": {"__tuple__": "abc"},
    "tuple of an object": {"__tuple__": {"a": 1}},
    "tuple of an array": {"__tuple__": {"__array__": "w"}},
    "deep": json.loads("[" * 900 + "]" * 900),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_states_are_a_value_error(name):
    for nest in (FORGED[name], [FORGED[name]], {"a": FORGED[name]}):
        with pytest.raises(ValueError, match="Received: ") as caught:
            unpack(nest, {"w": np.zeros(3)})
        assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.sampled_from([None, 0, 1.5, "w", "", True]),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(
                st.sampled_from(["__array__", "__scalar__", "__tuple__", "__log__", "a"]), inner
            ),
        ),
        max_leaves=8,
    )
)
def test_any_forged_state_is_read_or_refused(nest):
    with contextlib.suppress(ValueError):
        unpack(nest, {"w": np.zeros(3)})
