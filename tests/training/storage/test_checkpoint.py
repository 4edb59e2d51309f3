"""Checkpoints whose bits flip, that are cut, swapped or linked: the one before is loaded."""

from __future__ import annotations

import json
import os
import shutil
import warnings

import numpy as np
import pytest
from saved_checkpoints import content, dotted, number_of

from vantage.training.runs.folder import Folder, find_checkpoint
from vantage.training.storage.checkpoint import load_checkpoint, save_checkpoint

RANDOM = np.random.default_rng(0)


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
