"""Groups of options: a command takes each as one value, the command line as the options that it is made of.

    @dataclass(frozen=True, kw_only=True, slots=True)
    class ImageLimits:
        max_megapixels: MaxMegapixels = None

    def query(name: Name, limits: ImageLimits) -> None: ...

`ungroup(query)` takes `name` and `max_megapixels`, and that is what Typer reads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, Signature, getdoc, signature
from typing import Any, get_type_hints

import typer
from typer.core import TyperCommand, TyperOption

OUTPUT_PANEL = "Output"
RARE_PANEL = "Rarely needed"
output_option = functools.partial(typer.Option, rich_help_panel=OUTPUT_PANEL)
rare_option = functools.partial(typer.Option, rich_help_panel=RARE_PANEL)


def ungroup(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with each parameter that is a dataclass replaced by the dataclass's fields, at any depth."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters = [
        one
        for name, parameter in signature(command).parameters.items()
        for one in (_options_of(hints[name]) if name in groups else [parameter.replace(annotation=hints[name])])
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        made = {name: _group(hint, given) for name, hint in groups.items()}
        command(**given, **made)

    shown = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in parameters]
    run.__dict__["__signature__"] = Signature(shown)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run


def _fields_of(group: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, type and default of each field."""
    hints = get_type_hints(group, include_extras=True)
    for field in fields(group):
        yield field.name, hints[field.name], Parameter.empty if field.default is MISSING else field.default


def _options_of(group: Any) -> Iterator[Parameter]:
    for name, hint, default in _fields_of(group):
        if is_dataclass(hint):
            yield from _options_of(hint)
        else:
            yield Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _group(group: Any, given: dict[str, Any]) -> Any:
    """Make a group of what was given, and take that out."""
    return group(
        **{name: _group(hint, given) if is_dataclass(hint) else given.pop(name) for name, hint, _ in _fields_of(group)}
    )


def help_of(command: Callable[..., None]) -> str:
    """Return a command's docstring with its paragraphs in one line each, which a terminal breaks where it ends."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (getdoc(command) or "").split("\n\n"))


def typed_options(context: typer.Context) -> dict[str, str]:
    """Return what stands on the command line, whatever its value: parameters' names with their longest spelling."""
    return {
        name: max(parameter.opts, key=len)
        for parameter in context.command.params
        if (name := parameter.name or "")
        and (source := context.get_parameter_source(name)) is not None
        and source.name == "COMMANDLINE"
    }


class Command(TyperCommand):
    """A command whose --help stands beside --json."""

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        """Return --help."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = OUTPUT_PANEL
            option.metavar = ""
        return option
