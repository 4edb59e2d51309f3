"""The start of NumPy and TensorFlow for a command: quiet, and with the threads that suit it."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import tempfile
import time
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

from vantage.training.common.console import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Holds back what TensorFlow's C++ side prints while it is imported and started.

    Standard error is for our errors and progress; on an exception what was held back is printed.
    """
    if sys.stderr is not None:
        sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:  # not a signal, which is no fault of TensorFlow's
            os.dup2(kept, 2)
            held.seek(0)
            say(held.read().decode(errors="replace"), error=True)
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class _TensorFlowFinder:
    """Finds TensorFlow as Python does, for an import that is quiet."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        """The spec of TensorFlow; None of other modules, which are found as ever."""
        spec = PathFinder.find_spec(name, path) if name == "tensorflow" else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_quietly(module: ModuleType) -> None:
                os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
                with quiet_start():
                    execute(module)

            spec.loader.exec_module = execute_quietly  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def quiet_tensorflow() -> Iterator[None]:
    """Keeps the import of TensorFlow quiet where a module of the user's is the first to import it.

    What the libraries of CUDA print there is printed before any variable is read that hides it.
    """
    finder = _TensorFlowFinder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def limit_threads() -> None:
    """Lets NumPy compute in one thread; to be called before NumPy is imported.

    A second thread, on a core that is busy otherwise, makes a small product wait for it. Whoever
    has set the number is obeyed.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def start_tensorflow(
    device: str = "cpu", examples: int | None = None, width: int = 64, has_images: bool = False
) -> float:
    """Imports TensorFlow for a command, quietly; returns the seconds it took.

    What is fastest depends on the `examples` of one update and the `width` of the widest layer; the
    limits are in docs/benchmarks.md. Convolutions of images need oneDNN and all cores. A process
    that has imported TensorFlow already has set it up, too.
    """
    if "tensorflow" in sys.modules:
        with quiet_start():  # whoever has imported it may not have started it
            sys.modules["tensorflow"].config.list_logical_devices()
        return 0.0
    began = time.perf_counter()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if device == "cpu":
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    is_small = examples is not None and examples <= 256 and examples * width**2 < 2**23
    if has_images:  # TensorFlow's own default depends on the processor
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    elif is_small:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # its kernels start slowly
    gc.disable()  # else a sixth of the import goes into looking for garbage among modules
    with quiet_start():
        import tensorflow as tf

        threads = 1 if examples is None or examples < 8192 else 2
        threads = 0 if has_images else threads  # as many as there are cores
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.list_logical_devices()
    gc.freeze()
    gc.enable()
    return time.perf_counter() - began
