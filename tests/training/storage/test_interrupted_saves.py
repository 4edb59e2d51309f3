"""Processes that die and disks that fail at any call of a save.

Damage is done by real processes with real files, in scripts that know neither TensorFlow nor an
agent: `vantage.training.storage.checkpoint` and `.folder` answer for themselves.
"""

from __future__ import annotations

import pytest
from saved_checkpoints import in_memory, script

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


@pytest.fixture
def quick():
    with in_memory() as folder:
        yield folder


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
