"""Checkpoints that were forged: one clear line, nothing executed, no memory taken."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
from pathlib import Path

import pytest
from saved_checkpoints import content, in_memory, script

from vantage.training.storage.checkpoint import _sealed, save_checkpoint

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
