"""Quiet, single-threaded TensorFlow for the tests and for the processes that they start."""

import gc
import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# So that tests, and the workers that they start, find what tests share.
sys.path.insert(0, str(Path(__file__).parent / "support"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# A command chooses kernels that TensorFlow would choose on some processors only, and a run of this
# process is compared with runs of commands, to the bit.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
settings.register_profile("full", max_examples=1_000)  # pytest --hypothesis-profile full


@pytest.hookimpl(tryfirst=True)  # before `-m 'not slow'` is obeyed
def pytest_collection_modifyitems(items):
    from thinning import thin

    for item in thin(items):
        item.add_marker(pytest.mark.slow)
    # A worker that has nothing left takes tests from the end of another's list: were they of such a
    # file, it would make their set-up again.
    items.sort(key=lambda item: item.get_closest_marker("costly_setup") is None)


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """What a file leaves behind, compiled functions above all, is not looked through again."""
    yield
    gc.collect()
    gc.freeze()
