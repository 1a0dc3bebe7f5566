"""Other names of options: the field's own (`--lr`) and older ones (`--server`); they work, and no help names them.

    LearningRate: TypeAlias = Annotated[float | None, _option(metavar="X"), Alias(name="--lr")]

An alias is an option of its own that the help leaves out, because only so it can be told from the other name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from inspect import Parameter
from typing import Annotated, Any, get_args

import typer
from typer.models import OptionInfo

from resx.errors import UsageError

_SEPARATOR = "__"


def _same(_name: str, value: Any) -> Any:
    return value


@dataclass(frozen=True, kw_only=True, slots=True)
class Alias:
    """Another name of the option that it annotates."""

    name: str
    read: Callable[[str, Any], Any] = _same
    """Turns this name and its value into the option's own value."""


def survival_of(name: str, dropped: float) -> float:
    """Return the probability to survive, of the probability to be dropped.

    Raises:
        UsageError: it is no such probability.
    """
    if not 0 <= dropped < 1:
        raise UsageError(f"{name} {dropped:g}: give a probability in [0, 1); --survival is 1 minus it")
    return round(1 - dropped, 12)


def field_of(parameter: str) -> str:
    """Return the field that a parameter sets: its own, or the one that it is an alias of."""
    return parameter.partition(_SEPARATOR)[0]


def alias_parameters(parameter: Parameter) -> Iterator[Parameter]:
    """Yield a parameter for each alias of an option."""
    for alias in _aliases(parameter):
        option = copy(next(one for one in parameter.annotation.__metadata__ if isinstance(one, OptionInfo)))
        option.default, option.param_decls = ..., (alias.name,)
        option.hidden, option.show_default = True, False
        kind: Any = Annotated[get_args(parameter.annotation)[0] | None, option]
        yield parameter.replace(name=_parameter_of(parameter, alias), annotation=kind, default=None)


def settle_aliases(given: dict[str, Any], parameters: Mapping[str, Parameter], context: typer.Context) -> None:
    """Replace what aliases were given by the values of the options that they stand for.

    Raises:
        UsageError: an option was given by two names.
    """
    for name, parameter in parameters.items():
        source = context.get_parameter_source(name)
        typed = _spelled(parameter) if source is not None and source.name == "COMMANDLINE" else ""
        for alias in _aliases(parameter):
            value = given.pop(_parameter_of(parameter, alias))
            if value is None:
                continue
            if typed:
                raise UsageError(f"{typed} and {alias.name}: set the same value; give one of them")
            given[name], typed = alias.read(alias.name, value), alias.name


def _aliases(parameter: Parameter) -> list[Alias]:
    return [one for one in getattr(parameter.annotation, "__metadata__", ()) if isinstance(one, Alias)]


def _parameter_of(parameter: Parameter, alias: Alias) -> str:
    return parameter.name + _SEPARATOR + alias.name.strip("-").replace("-", "_")


def _spelled(parameter: Parameter) -> str:
    return f"--{parameter.name.replace('_', '-')}"
