"""The command `vantage`: reads the first word and hands over, before anything heavy is imported."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
import traceback
from typing import NoReturn

from vantage.scripts.flags import fail, limit_threads

COMMANDS = {
    "train": "train an agent: vantage train a2c CartPole-v1",
    "evaluate": "play episodes with a trained agent: vantage evaluate RUN_DIR",
    "check": "what is wrong with my environment? vantage check module:MyEnv-v0",
    "runs": "a table of all runs below a folder: vantage runs [DIR]",
    "plot": "draw the learning curves of runs: vantage plot RUN_DIR...",
    "watch": "see a trained agent play, or film it: vantage watch RUN_DIR",
    "tensorboard": "start TensorBoard on a folder of runs: vantage tensorboard [DIR]",
    "regression": "train a model on a loss of your own: target-range, arm",
    "gan": "train a generator against a discriminator: ring, digits",
    "benchmark": "tables of seeds, and speed in alternation with a peer",
}


def main(arguments: list[str] | None = None) -> None:
    """The entry point.

    Exit codes: 0 done, 1 an environment broke (or `check` found errors), 2 bad usage or
    configuration, 130/143 after a signal.
    """
    limit_threads()
    arguments = sys.argv[1:] if arguments is None else arguments
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        lines = [f"  {command:<12} {purpose}" for command, purpose in COMMANDS.items()]
        print("usage: vantage [--version] COMMAND ...\n\ncommands:", *lines, sep="\n")
        print("\nRun `vantage COMMAND --help` for its flags.")
        return
    if name == "--version":
        print(f"vantage {importlib.metadata.version('vantage-rl')}")
        return
    if name not in COMMANDS:
        commands = ", ".join(COMMANDS)
        fail(f"The command must be one of {commands}. Received: {name!r}. Run `vantage --help`.")
    try:
        importlib.import_module(f"vantage.scripts.{name}").run(arguments[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # such as of `vantage runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        if os.environ.get("VANTAGE_TRACEBACK") or not _is_reported(error):
            raise
        if type(error).__module__ == "vantage.envs.broken":
            _report_broken(error)
        if "Received:" in str(error):
            fail(str(error))
        fail(f"{type(error).__name__}: {error}. Set VANTAGE_TRACEBACK=1 to see where it arose.")
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _is_reported(error: Exception) -> bool:
    """Whether one line tells enough; anything else is a bug and keeps its traceback."""
    expected = (ValueError, TypeError, ImportError, OSError, FloatingPointError)
    modules = ("gymnasium.error", "vantage.envs.broken")
    return isinstance(error, expected) or type(error).__module__ in modules


def _report_broken(error: Exception) -> NoReturn:
    """The environment's own traceback, then what to do about it; exit code 1."""
    first, _, rest = str(error).partition("\n")
    if error.__cause__ is not None:
        rest = "".join(traceback.format_exception(error.__cause__))
    print(rest.strip(), file=sys.stderr)
    fail(" ".join([first, *getattr(error, "__notes__", [])]), code=1)


if __name__ == "__main__":
    main()
