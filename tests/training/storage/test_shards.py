"""Replay buffers in checkpoints: only what is new is written, and nothing damaged is read."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from vantage.training import Replay
from vantage.training.experience.transitions import Transition
from vantage.training.runs.folder import Folder, find_checkpoint
from vantage.training.storage import shards
from vantage.training.storage.checkpoint import listed_shards, load_checkpoint, save_checkpoint
from vantage.training.storage.packing import pack, unpack

ROWS = ("observations", "actions", "rewards", "terminated", "ended", "real")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No power is cut in these tests: they need not wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def buffer(capacity=60, n=2):
    return Replay(capacity, n, (3,), (), np.int32)


def played(replay, steps, seed=0):
    """`steps` random steps more, some of them dummies, some with final observations."""
    n = replay.rewards.shape[1]
    for t in range(replay.observed, replay.observed + steps):
        random = np.random.default_rng([seed, t])
        ended = random.random(n) < 0.3
        final = random.random((n, 3), np.float32) if t % 2 else None
        terminated, weights = ended & (random.random(n) < 0.5), random.random(n) < 0.8
        replay.act(random.random((n, 3), np.float32), random.integers(9, size=n))
        rewards, observations = random.random(n, np.float32), np.zeros((n, 3))
        replay.observe(Transition(observations, rewards, terminated, ended, weights, final))
    return replay


def everything(replay):
    """Every bit that is live, by name; the ring of final observations in the order of the rows."""
    live = np.unique(np.arange(replay.start, replay.acted) % len(replay.rewards))
    arrays = {name: getattr(replay, name)[live] for name in ROWS}
    arrays["has_final"] = replay.final_at[live] >= 0
    numbers = replay.final_at[np.arange(replay.start, replay.acted) % len(replay.rewards)]
    arrays["final"] = replay.finals[numbers[numbers >= 0] % len(replay.finals)]
    batch = replay.sample(50, np.random.default_rng(0)) if len(replay) else ()
    counters = (replay.acted, replay.observed, len(replay))
    return [(k, v.tobytes()) for k, v in arrays.items()], counters, [f.tobytes() for f in batch]


def save(folder, replay):
    """A checkpoint; the bytes of the shards that it wrote."""
    before = set(names(folder))
    arrays, packed = pack("agent", {"replay": replay.get_state()}, folder.shards)
    new = sum((folder.shards / name).stat().st_size for name in set(names(folder)) - before)
    folder.save(replay.observed, arrays, {"agent": packed})
    return new


def names(folder):
    return sorted(p.name for p in folder.shards.iterdir()) if folder.shards.exists() else []


def listed(folder):
    """The names of the shards that the checkpoints list, each one's."""
    paths = sorted((folder.path / "checkpoints").glob("step-*"))
    manifests = [json.loads((path / "manifest.json").read_text()) for path in paths]
    return [[shard.name for shard in listed_shards(manifest)] for manifest in manifests]


def restored(found, path, replay):
    state = unpack(found.manifest["agent"], found.arrays, path)
    replay.set_state(state["replay"])
    return replay


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path / "run", {})
    yield folder
    folder.close()


def reopened(folder):
    folder.close()
    return Folder(folder.path, {}, resume=True)


@pytest.mark.thinned
@pytest.mark.parametrize("steps", [0, 1, 2, 10, 29, 30, 31, 32, 75, 200])
@pytest.mark.parametrize("waits", [True, False], ids=["observed", "acted"])
def test_every_bit_comes_back(tmp_path, steps, waits):
    """Before the ring is full, around that, and long after; in shards, and in one's own folder."""
    replay = buffer()
    folder = Folder(tmp_path / "run", {})
    for part in (steps // 3, steps // 3, steps - 2 * (steps // 3)):
        played(replay, part)
        save(folder, replay)
    if not waits:
        replay.act(np.full((2, 3), 0.5), np.ones(2))
        save(folder, replay)
    folder = reopened(folder)
    again = restored(folder.saved, folder.shards, buffer())
    assert everything(again) == everything(replay)
    arrays, packed = pack("agent", {"replay": replay.get_state()})
    save_checkpoint(tmp_path / "agent", arrays, {"agent": packed})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["agent", "run"]
    arrays, manifest = load_checkpoint(tmp_path / "agent")
    own = buffer()
    own.set_state(unpack(manifest["agent"], arrays)["replay"])
    assert everything(own) == everything(replay)
    if not waits:
        for each in (replay, again, own):
            each.cut()
    for each in (replay, again, own):
        played(each, 40, seed=1)
    assert everything(again) == everything(own) == everything(replay)
    folder.close()


def test_a_save_writes_only_what_is_new(folder):
    replay = played(buffer(20_000), 3_000)
    all_new = save(folder, replay)
    played(replay, 30)
    assert save(folder, replay) < 0.02 * all_new  # 1 % and a header
    assert save(folder, replay) == 0
    folder = reopened(folder)  # a new process knows from the manifest what is there
    replay = played(restored(folder.saved, folder.shards, buffer(20_000)), 30)
    assert 0 < save(folder, replay) < 0.02 * all_new
    assert everything(restored(find_checkpoint(folder.path), folder.shards, buffer(20_000))) == (
        everything(replay)
    )
    folder.close()


def test_tensors_do_not_hold_the_log(folder):
    save(folder, played(buffer(20_000), 2_000))
    (tensors,) = folder.path.glob("checkpoints/step-*/tensors.safetensors")
    assert tensors.stat().st_size < 2_000


def test_old_shards_are_pruned_with_the_checkpoints_that_list_them(folder):
    replay = buffer()
    for _ in range(30):
        played(replay, 7)
        save(folder, replay)
        assert names(folder) == sorted({name for each in listed(folder) for name in each})
        assert len(names(folder)) <= 30 // 7 + 3
    (folder.shards / "notes.txt").write_text("not ours")
    left_over = folder.shards / f".{listed(folder)[0][0]}.4242"
    left_over.write_bytes(b"")
    save(folder, played(replay, 7))
    assert (folder.shards / "notes.txt").exists() and not left_over.exists()


def test_the_shards_of_the_best_agent_stay(folder):
    replay = played(buffer(), 10)
    arrays, packed = pack("agent", {"replay": replay.get_state()}, folder.shards)
    folder.save_best(arrays, {"agent": packed})
    expected = everything(replay)
    for _ in range(20):
        save(folder, played(replay, 20))
    arrays, manifest = load_checkpoint(folder.path / "checkpoints" / "best")
    best = buffer()
    best.set_state(unpack(manifest["agent"], arrays, folder.shards)["replay"])
    assert everything(best) == expected


def test_nothing_is_pruned_while_a_manifest_cannot_be_read(folder):
    replay = played(buffer(), 10)
    save(folder, replay)
    manifest = next(folder.path.glob("checkpoints/step-*/manifest.json"))
    content = manifest.read_bytes()
    manifest.write_bytes(content[:-1])
    before = names(folder)
    save(folder, played(replay, 40))
    assert set(before) < set(names(folder))


def test_small_shards_are_merged_now_and_then(tmp_path, monkeypatch):
    """Never more than there may be; what is written again stays within a few times the new."""
    monkeypatch.setattr(shards, "MOST_SMALL", 8)
    folder, replay, written = Folder(tmp_path / "run", {}), buffer(4_000), 0
    for _ in range(120):
        written += save(folder, played(replay, 5))
        assert len(listed(folder)[-1]) <= 8
    once = save(Folder(tmp_path / "once", {}), replay)
    assert written < 12 * once
    folder = reopened(folder)
    assert everything(restored(folder.saved, folder.shards, buffer(4_000))) == everything(replay)
    folder.close()


def test_no_shard_is_large(folder, monkeypatch):
    monkeypatch.setattr(shards, "MOST_BYTES", 4_000)
    monkeypatch.setattr(shards, "MOST_SMALL", 4)
    replay = played(buffer(2_000), 900)
    for _ in range(30):
        save(folder, played(replay, 3))
    sizes = [(folder.shards / name).stat().st_size for name in listed(folder)[-1]]
    assert max(sizes) < 7_000 and len(sizes) > 8  # some final observations and a header on top
    assert sum(size < 2_000 for size in sizes) <= 4
    found = find_checkpoint(folder.path)
    assert everything(restored(found, folder.shards, buffer(2_000))) == everything(replay)


def test_a_run_that_died_before_its_first_checkpoint_may_begin_again(folder):
    """It has shards that nobody lists; they go with the next save."""
    pack("agent", {"replay": played(buffer(), 10).get_state()}, folder.shards)
    assert len(names(folder)) == 1
    folder = reopened(folder)
    assert folder.saved is None
    replay = played(buffer(), 20, seed=1)
    save(folder, replay)
    assert names(folder) == listed(folder)[0]
    folder.close()


def test_large_neighbours_are_not_merged_for_the_sake_of_small_ones():
    """However many those are; small ones beside one another are."""

    def sizes(groups):
        return [sum(shard.size for shard in group) for group in groups]

    large, small = (shards.Shard("", 0, 1, size, "") for size in (shards.MOST_BYTES, 9))
    between = [[large], [small]] * 100
    assert shards._merged(between) == between
    merged = sizes(shards._merged([[large]] * 70 + [[small]] * 64 + [[small]]))
    assert merged[:70] == [large.size] * 70
    assert len(merged) == 70 + 32 and max(merged[70:]) <= 4 * small.size
    assert sum(merged[70:]) == 65 * small.size
    assert len(shards._merged([[large]] * 70 + [[small]] * 64)) == 134


def test_a_shard_that_is_written_again_is_never_half_there(folder, monkeypatch):
    """A buffer that does not know of it, a disk that is full in the middle of it."""
    replay = played(buffer(), 10)
    save(folder, replay)
    other, expected, write = played(buffer(), 10), everything(replay), os.write

    def half(handle, data):
        write(handle, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
        patched.setattr(os, "write", half)
        save(folder, other)
    found = find_checkpoint(folder.path)
    assert everything(restored(found, folder.shards, buffer())) == expected
    assert save(folder, other) == 0  # nothing else than what is there


def test_what_was_lost_on_the_disk_is_written_again(folder):
    """The memory still has it: the next checkpoint is whole."""
    replay = played(buffer(), 10)
    save(folder, replay)
    (folder.shards / names(folder)[0]).unlink()
    save(folder, played(replay, 5))
    found = find_checkpoint(folder.path)
    assert everything(restored(found, folder.shards, buffer())) == everything(replay)


def test_another_folder_gets_everything(folder, tmp_path):
    replay = played(buffer(), 10)
    save(folder, replay)
    other = Folder(tmp_path / "other", {})
    assert save(other, replay) > 0
    found = find_checkpoint(other.path)
    assert everything(restored(found, other.shards, buffer())) == everything(replay)
    other.close()


def test_a_buffer_set_back_is_saved_as_it_is(folder):
    """Rows of the same numbers, but other ones: what is on the disk is not theirs."""
    replay = played(buffer(), 10)
    save(folder, replay)
    state, at_ten = replay.get_state(), everything(replay)
    save(folder, played(replay, 5))
    replay.set_state(state)
    assert everything(replay) == at_ten
    save(folder, played(replay, 8, seed=1))
    found = find_checkpoint(folder.path)
    assert everything(restored(found, folder.shards, buffer())) == everything(replay)


def test_a_failing_disk_is_no_loss(folder, monkeypatch):
    """A save that fails anywhere leaves the one before; the next one is whole."""
    replay = played(buffer(), 10)
    save(folder, replay)
    expected, fsync = everything(replay), os.fsync
    for fails_at in range(1, 7):
        calls = []

        def failing(handle, calls=calls, fails_at=fails_at):
            calls.append(handle)
            if len(calls) == fails_at:
                raise OSError(28, "No space left on device")
            fsync(handle)

        played(replay, 3)
        with monkeypatch.context() as patched, pytest.raises(OSError, match="No space"):
            patched.setattr(os, "fsync", failing)
            save(folder, replay)
        if fails_at < 6:  # the sixth comes after the rename
            found = find_checkpoint(folder.path)
            assert everything(restored(found, folder.shards, buffer())) == expected
        assert not list(folder.shards.glob(".*"))
    save(folder, replay)
    found = find_checkpoint(folder.path)
    assert everything(restored(found, folder.shards, buffer())) == everything(replay)


def test_numbers_that_are_not_finite_are_not_saved(folder):
    replay = played(buffer(), 10)
    save(folder, replay)
    replay.act(np.full((2, 3), np.nan), np.ones(2))
    replay.observe(Transition(None, *np.zeros((3, 2)), np.ones(2), None))
    played(replay, 1)
    with pytest.raises(FloatingPointError, match=r"observations.*Nothing was saved"):
        save(folder, replay)


def two_checkpoints(folder):
    """An older one, a newer one, and the shard that only the newer lists."""
    replay = played(buffer(), 10)
    save(folder, replay)
    expected = everything(replay)
    save(folder, played(replay, 6))
    older, newer = listed(folder)
    (name,) = set(newer) - set(older)
    return expected, folder.shards / name, folder.shards / older[0]


def flip(path, at, bit=0):
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)


def link(path, other):
    moved = path.with_name("moved")
    path.rename(moved)
    path.symlink_to(moved)


def swap(path, other):
    content = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


DAMAGE = {
    "deleted": lambda path, other: path.unlink(),
    "short by a byte": lambda path, other: path.write_bytes(path.read_bytes()[:-1]),
    "a byte more": lambda path, other: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path, other: path.write_bytes(b""),
    "another's content": lambda path, other: path.write_bytes(other.read_bytes()),
    "a link": link,
    "a folder": lambda path, other: (path.unlink(), path.mkdir()),
    "a pipe": lambda path, other: (path.unlink(), os.mkfifo(path)),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_a_damaged_checkpoint(folder, damage):
    expected, path, other = two_checkpoints(folder)
    damage(path, other)
    with pytest.warns(RuntimeWarning, match=r"Damaged.*step-000000000010.*must have the shards"):
        found = find_checkpoint(folder.path)
    assert everything(restored(found, folder.shards, buffer())) == expected
    with pytest.warns(RuntimeWarning, match="Damaged"):
        folder = reopened(folder)
    replay = played(restored(folder.saved, folder.shards, buffer()), 6, seed=2)
    save(folder, replay)
    found = find_checkpoint(folder.path)
    assert everything(restored(found, folder.shards, buffer())) == everything(replay)
    folder.close()


def test_shards_that_changed_places(folder):
    _, path, other = two_checkpoints(folder)
    swap(path, other)
    with pytest.warns(RuntimeWarning, match="starting afresh"):
        assert find_checkpoint(folder.path) is None


def test_every_flipped_bit_is_seen(folder):
    replay = played(buffer(8, 1), 4)
    save(folder, replay)
    (name,) = names(folder)
    path = folder.shards / name
    (checkpoint,) = folder.path.glob("checkpoints/step-*")
    load_checkpoint(checkpoint)
    for at in range(0, path.stat().st_size, 3):
        flip(path, at, at % 8)
        with pytest.raises(ValueError, match=r"Received: replay-.*Use another checkpoint"):
            load_checkpoint(checkpoint)
        flip(path, at, at % 8)
    load_checkpoint(checkpoint)


def test_a_shard_damaged_after_the_check_is_seen_when_it_is_read(folder):
    """The buffer that was to take it over is as it was, or empty."""
    _, path, _ = two_checkpoints(folder)
    found = find_checkpoint(folder.path)
    flip(path, 100)
    replay = played(buffer(), 20)
    with pytest.raises(ValueError, match="must have the shards"):
        restored(found, folder.shards, replay)
    assert len(replay) == 0
    save(folder, played(replay, 10))  # nor does it rely on those shards


def entries(*ranges):
    """What a manifest says of shards of these ranges, all of them well formed."""
    sha = hashlib.sha256(b"").hexdigest()
    return [
        {
            "name": f"replay-{start:012d}-{stop:012d}-{sha[:16]}.safetensors",
            "start": start,
            "stop": stop,
            "size": 10,
            "sha256": sha,
        }
        for start, stop in ranges
    ]


def changed(**fields):
    return {"start": 0, "stop": 4, "shards": [entries((0, 4))[0] | fields]}


NAME = entries((0, 4))[0]["name"]
BAD_LOGS = {
    "no dict": [],
    "nothing": {},
    "a gap": {"start": 0, "stop": 9, "shards": entries((0, 4), (5, 9))},
    "an overlap": {"start": 0, "stop": 9, "shards": entries((0, 4), (3, 9))},
    "too short": {"start": 0, "stop": 9, "shards": entries((0, 4))},
    "too long": {"start": 0, "stop": 3, "shards": entries((0, 4))},
    "too late": {"start": 0, "stop": 4, "shards": entries((1, 4))},
    "one too many": {"start": 4, "stop": 9, "shards": entries((0, 4), (4, 9))},
    "in another order": {"start": 0, "stop": 9, "shards": entries((4, 9), (0, 4))},
    "backwards": {"start": 4, "stop": 0, "shards": entries((4, 0))},
    "none of some": {"start": 0, "stop": 4, "shards": []},
    "some of none": {"start": 4, "stop": 4, "shards": entries((0, 4))},
    "another path": changed(name=f"../{NAME}"),
    "an absolute path": changed(name=f"/tmp/{NAME}"),
    "a line more": changed(name=f"{NAME}\n"),
    "other digits": changed(name=NAME.replace("0", "٠", 1)),
    "a number for a name": changed(name=4),
    "another range": changed(name=NAME.replace("4-", "5-")),
    "another hash": changed(sha256="0" * 64),
    "half a hash": changed(sha256=entries((0, 4))[0]["sha256"][:32]),
    "a field more": changed(mode="w"),
    "a negative size": changed(size=-1),
    "a boolean size": changed(size=True),
    "a size beyond all memory": changed(size=2**60),
    "a float": changed(stop=4.0),
    "arrays that are none": {"start": 0, "stop": 4, "arrays": {"rewards": 1}},
    "no arrays": {"start": 0, "stop": 4, "arrays": None},
}


@pytest.mark.parametrize("packed", BAD_LOGS.values(), ids=BAD_LOGS)
def test_logs_that_nobody_saved(tmp_path, packed):
    with pytest.raises(ValueError, match=r"must list its shards.*Received.*Use another"):
        unpack({"log": {"__log__": packed}}, {}, tmp_path)


def test_well_formed_logs_of_the_same_kind():
    for start in (0, 3):
        packed = {"start": start, "stop": 9, "shards": entries((0, 4), (4, 9))}
        assert len(shards.load_log(packed, None).kept.shards) == 2
    assert shards.load_log({"start": 4, "stop": 4, "shards": []}, None).kept.shards == []


def foreign(folder, **arrays):
    """A checkpoint whose shard is whole, but holds other arrays."""
    replay = played(buffer(), 10)
    original = replay._rows

    def rows(a, b):
        return {k: v for k, v in (original(a, b) | arrays).items() if v is not None}

    state = replay.get_state()
    state["log"] = shards.Log(state["log"].start, state["log"].stop, rows)
    packed_arrays, packed = pack("agent", {"replay": state}, folder.shards)
    folder.save(10, packed_arrays, {"agent": packed})


@pytest.mark.parametrize(
    "arrays",
    [
        {"rewards": None},
        {"more": np.zeros(9)},
        {"rewards": np.zeros((9, 2), np.float64)},
        {"rewards": np.zeros((9, 3), np.float32)},
        {"observations": np.zeros((8, 2, 3), np.float32)},
        {"final": np.zeros((99, 3), np.float32)},
        {"has_final": np.zeros((), bool)},
        {"has_final": np.ones((9, 2), bool)},
    ],
    ids=lambda arrays: next(iter(arrays)),
)
def test_whole_shards_of_another_buffer(folder, arrays):
    foreign(folder, **arrays)
    replay = played(buffer(), 20)
    before = everything(replay)
    with pytest.raises(ValueError, match=r"must have the shape.*Received.*Resume"):
        restored(find_checkpoint(folder.path), folder.shards, replay)
    assert everything(replay) == before


def test_shards_need_their_folder(folder):
    save(folder, played(buffer(), 10))
    found = find_checkpoint(folder.path)
    with pytest.raises(ValueError, match="its folder is unknown"):
        restored(found, None, buffer())


def test_a_log_that_was_read_is_not_saved_again(folder):
    save(folder, played(buffer(), 10))
    found = find_checkpoint(folder.path)
    state = unpack(found.manifest["agent"], found.arrays, folder.shards)
    with pytest.raises(ValueError, match="must belong to a buffer"):
        pack("agent", state)


KILLS = """
    import os, shutil, sys
    from pathlib import Path
    import numpy as np
    from test_shards import Folder, buffer, everything, find_checkpoint, played, restored, save
    from vantage.training.storage import shards

    CALLS = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink")
    shards.MOST_SMALL = 4  # so that the save merges as well
    os.fsync = lambda handle: None  # a process dies, not the machine

    def killed_at(call, path):
        '''Whether a save got that far: a child process that ends at a call into the system.'''
        child = os.fork()
        if child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        count, originals = 0, {name: getattr(os, name) for name in CALLS}

        def patched(name):
            def replacement(*arguments, **keywords):
                nonlocal count
                count += 1
                if count == call:
                    if name == "write":  # half of it
                        handle, data = arguments
                        originals[name](handle, data[: len(data) // 2])
                    os._exit(9)
                return originals[name](*arguments, **keywords)
            return replacement

        try:
            folder = Folder(path, {}, resume=True)
            replay = played(restored(folder.saved, folder.shards, buffer()), 6)
            for name in CALLS:
                setattr(os, name, patched(name))
            save(folder, replay)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)

    root = Path(sys.argv[1])
    folder, replay = Folder(root / "base", {}), buffer()
    for _ in range(4):
        save(folder, played(replay, 5))
    folder.close()
    before = everything(replay)
    after = everything(played(replay, 6))
    seen, call = [], 1
    while True:
        path = root / str(call)
        shutil.copytree(root / "base", path)
        died = killed_at(call, path)
        folder = Folder(path, {}, resume=True)  # a damaged checkpoint were a warning: an error
        replay = restored(folder.saved, folder.shards, buffer())
        seen.append(everything(replay))
        assert seen[-1] in (before, after), call
        save(folder, played(replay, 4, seed=1))
        again = restored(find_checkpoint(path), folder.shards, buffer())
        assert everything(again) == everything(replay), call
        listed = {s.name for s in replay._kept.shards}
        assert listed <= {p.name for p in folder.shards.iterdir()}
        assert not list(folder.shards.glob(".*")), call
        folder.close()
        shutil.rmtree(path)
        if not died:
            break
        call += 1
    assert call > 25 and before in seen and seen[-1] == after, call
    assert "tensorflow" not in sys.modules
    print(call)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_may_die_at_any_moment_of_a_save(tmp_path):
    """At every call into the file system: the checkpoint before is whole, or the new one is."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parents[1] / "support")])
    path += os.pathsep + os.environ.get("PYTHONPATH", "")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(KILLS), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
