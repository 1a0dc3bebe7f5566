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
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from inspect import Parameter, Signature, getdoc, signature
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.models import OptionInfo

from resx.cli.completion import choice_completer
from resx.cli.help_page import print_page
from resx.cli.options.aliases import alias_parameters, field_of, settle_aliases
from resx.cli.options.missing_values import require_values

OUTPUT_PANEL = "Output"
RARE_PANEL = "Rarely needed"
output_option = functools.partial(typer.Option, rich_help_panel=OUTPUT_PANEL)
rare_option = functools.partial(typer.Option, rich_help_panel=RARE_PANEL)
_CONTEXT = "alias_context"


def ungroup(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with each parameter that is a dataclass replaced by the dataclass's fields, at any depth.

    Options with aliases get these beside them, and those with choices propose them to a shell.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters = [
        one
        for name, parameter in signature(command).parameters.items()
        for one in (_options_of(hints[name]) if name in groups else [parameter.replace(annotation=hints[name])])
    ]
    aliases = {one.name: one for one in parameters if [*alias_parameters(one)]}
    parameters += [alias for one in aliases.values() for alias in alias_parameters(one)]
    own_context = next((one.name for one in parameters if one.annotation is typer.Context), None)
    if aliases and own_context is None:
        parameters.append(Parameter(_CONTEXT, Parameter.KEYWORD_ONLY, annotation=typer.Context))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        if aliases:
            settle_aliases(given, aliases, given[own_context] if own_context else given.pop(_CONTEXT))
        made = {name: _group(hint, given) for name, hint in groups.items()}
        command(**given, **made)

    shown = [
        parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=_proposing(parameter.annotation))
        for parameter in parameters
    ]
    run.__dict__["__signature__"] = Signature(shown)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return run


def _proposing(annotation: Any) -> Any:
    """Return an option's annotation with what proposes its choices to a shell."""
    kind, *marks = get_args(annotation) if hasattr(annotation, "__metadata__") else (annotation,)
    for index, mark in enumerate(marks):
        if isinstance(mark, OptionInfo) and (complete := choice_completer(mark.metavar)):
            marks[index] = copy(mark)
            marks[index].autocompletion = complete
    return Annotated[(kind, *marks)] if marks else annotation


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
        field_of(name): max(parameter.opts, key=len)
        for parameter in context.command.params
        if (name := parameter.name or "")
        and (source := context.get_parameter_source(name)) is not None
        and source.name == "COMMANDLINE"
    }


class Group(TyperGroup):
    """The program: its commands, in groups."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's own
        """Print the help."""
        print_page(self, ctx, self.commands.values())


class Command(TyperCommand):
    """A command whose --help stands beside --json, and whose options' values are never options' names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read what was typed behind the command's name."""
        if not ctx.resilient_parsing:
            require_values(self.get_params(ctx), args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - Typer's own
        """Print the help."""
        print_page(self, ctx)

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        """Return --help."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.rich_help_panel = OUTPUT_PANEL
            option.metavar = ""
        return option
