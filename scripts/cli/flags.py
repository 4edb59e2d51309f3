"""Command-line flags from dataclasses, with errors whose last line says what to do."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import field, fields
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

from vantage.scripts.cli.failing import fail
from vantage.training.common.console import say
from vantage.training.common.descriptions import descriptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

T = TypeVar("T")
COLOURS = r"\x1b\[[\d;]*m"


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
