"""Command-line flags from dataclasses, with errors whose last line says what to do."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import re
import sys
import tempfile
import time
from dataclasses import field, fields
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, get_type_hints

from vantage.training.common.console import say
from vantage.training.common.descriptions import descriptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import ModuleType

T = TypeVar("T")
COLOURS = r"\x1b\[[\d;]*m"
MOST_MESSAGE = 5_000  # characters of an error


OPTION: Any = object()
"""The value of a flag that `with_options` completes."""


def with_options(
    options: type,
    names: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Callable[[type[T]], type[T]]:
    """Completes a class of flags, before it becomes a dataclass, from a dataclass of options.

    A flag whose value is `OPTION` has the option's default. Its help is the first paragraph of the
    option's description, unless it has one of its own, and its type that of the option, unless it
    is annotated with something else than Any.

    Args:
        options: The dataclass.
        names: Options by the flags that are named otherwise.
        defaults: Defaults of flags that differ from those of their options.
    """
    from tyro.conf import arg

    texts, hints = descriptions(options), get_type_hints(options)
    known = {each.name: each.default for each in fields(options)}

    def completed(flags: type[T]) -> type[T]:
        described, types = descriptions(flags), flags.__annotations__
        for flag in [flag for flag, value in vars(flags).items() if value is OPTION]:
            name = (names or {}).get(flag, flag)
            default = (defaults or {}).get(flag, known[name])
            setattr(flags, flag, field(default=default, metadata={"option": name}))
            if types[flag] in ("Any", Any):
                types[flag] = hints[name]
            if flag not in described:
                text = texts[name].partition("\n\n")[0]
                types[flag] = Annotated[types[flag], arg(help=text)]
        return flags

    return completed


def option_names(flags: type) -> dict[str, str]:
    """The option that each flag stands for, by flag; flags that are no options are left out."""
    return {
        each.name: each.metadata["option"] for each in fields(flags) if "option" in each.metadata
    }


def parse(flags: type[T], arguments: list[str], *, prog: str, default: Any = None) -> T:
    """An instance of the dataclass `flags` from command-line arguments.

    Raises:
        SystemExit: 0 after `--help`; 2 on bad usage, the last line of standard error saying why.
        ValueError: The dataclass refuses a value.
    """
    import tyro

    errors = io.StringIO()
    keywords = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(flags, args=arguments, prog=prog, **keywords)
    except SystemExit as stop:
        say(re.sub(COLOURS, "", errors.getvalue()).removesuffix("\n"), error=True)
        if stop.code:
            said = _first_paragraph(errors.getvalue())
            refused = re.match(rf"Error parsing {flags.__name__}: (.*Received: .*)", said)
            if refused:  # by the dataclass itself, which says all
                fail(f"{refused[1]}. Run `{prog} --help` for the flags.")
            fail(
                "Flags must be known ones, each with a value of its type. Received: "
                f"{' '.join(arguments) or 'none'} ({said}). "
                f"Run `{prog} --help` for the flags."
            )
        raise


def _first_paragraph(box: str) -> str:
    """What a tyro error says below its title, on one line; boxes are drawn in Unicode or ASCII."""
    paragraphs: list[list[str]] = [[]]
    for line in re.sub(COLOURS, "", box).splitlines():
        if line.startswith("╭") or not line.strip("│╰╯─- "):
            paragraphs.append([])
        else:
            paragraphs[-1].append(line.strip("│ "))
    filled = [" ".join(lines).rstrip(".") for lines in paragraphs if lines]
    title = 0 if "╭" in box else 1
    return filled[title] if len(filled) > title else " ".join(filled)


def require_at_least(flags: Any, **bounds: int) -> None:
    """Checks numbers of a flags dataclass; None stands for a flag that was left out.

    Raises:
        ValueError: One is less than its bound.
    """
    for name, bound in bounds.items():
        value = getattr(flags, name)
        if value is not None and value < bound:
            raise ValueError(
                f"{name} must be at least {bound}. Received: {value}. "
                f"Leave --{name.replace('_', '-')} out for its default."
            )


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


def fail(message: str, code: int = 2) -> NoReturn:
    """Ends the program with an exit code and `message`, on one line, last on standard error."""
    line = " ".join(message.split())
    if len(line) > MOST_MESSAGE:  # the advice is at its end
        line = f"{line[: MOST_MESSAGE - 1_000]} … {line[-1_000:]}"
    say(f"error: {line}", error=True)
    raise SystemExit(code)
