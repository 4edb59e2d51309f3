"""Quiet, single-threaded TensorFlow for the tests and for the processes that they start."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # so that tests and their workers find scripted.py
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# A command chooses kernels that TensorFlow would choose on some processors only, and a run of this
# process is compared with runs of commands, to the bit.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
