"""Numbers that no command can use: too large, infinite, none at all."""

import typing
from collections.abc import Callable, Iterator

import pytest
import typer

from resx.cli.main import app
from resx.cli.options.validation import finite
from tests.support.command import Finished

Resx = Callable[..., Finished]


def declared() -> Iterator[tuple[str, str, typing.Any, typer.models.OptionInfo]]:
    """Give every option of every command: the command, its parameter, the type and what it declares."""
    for command in app.registered_commands:
        assert command.callback is not None
        for name, hint in typing.get_type_hints(command.callback, include_extras=True).items():
            for info in getattr(hint, "__metadata__", ()):
                if isinstance(info, typer.models.OptionInfo):
                    yield command.callback.__name__, name, hint.__origin__, info


def test_every_option_that_takes_a_float_wants_a_finite_one() -> None:
    floats = [
        (command, name, info)
        for command, name, kind, info in declared()
        if kind is float or float in typing.get_args(kind)
    ]

    assert len(floats) > 15
    assert [(command, name) for command, name, info in floats if info.callback is not finite] == []


def test_every_seed_has_the_same_bounds() -> None:
    seeds = {info.callback for _, name, _, info in declared() if name == "seed"}

    (check,) = seeds
    assert check is not None
    assert check(2**63 - 1) == 2**63 - 1
    for value in (-1, 2**63):
        with pytest.raises(typer.BadParameter, match=f"{value} is not in the range"):
            check(value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "resnet20", "-o", "r", "--learning-rate", "inf"),
        ("train", "resnet20", "-o", "r", "--clip-norm", "inf"),
        ("train", "resnet20", "-o", "r", "--clip-norm", "nan"),
        ("train", "resnet20", "-o", "r", "--weight-decay", "Infinity"),
        ("train", "resnet20", "-o", "r", "--label-smoothing", "nan"),
        ("train", "resnet20", "-o", "r", "--survival", "nan"),
        ("train", "resnet20", "-o", "r", "--learning-rate", "1e999"),
        ("train", "resnet20", "-o", "r", "--seed", str(2**64)),
        ("train", "resnet20", "-o", "r", "--seed", str(2**63)),
        ("train", "resnet20", "-o", "r", "--seed", "-1"),
        ("export", "resnet20", "--seed", "9" * 5000),
        ("lesion", "r", "--seed", str(2**64)),
        ("shrink", "r", "-o", "s", "--latency", "inf"),
        ("shrink", "r", "-o", "s", "--max-accuracy-drop", "nan"),
        ("export", "resnet20", "--rtol", "nan"),
        ("bench", "resnet20", "--duration", "inf"),
        ("plan", "resnet20", "--rate", "nan", "--slo", "p99=1ms"),
        ("deploy", "resnet20", "--trial", "inf"),
    ],
)
def test_a_number_that_nothing_can_be_done_with_is_refused_with_the_option(
    resx: Resx, arguments: tuple[str, ...]
) -> None:
    done = resx(*arguments)

    assert done.code == 2
    assert done.out == ""
    assert len(done.err.splitlines()) == 1, done.err
    assert arguments[-2] in done.err or arguments[-4] in done.err
