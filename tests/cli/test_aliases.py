"""The field's own names of options, and the older ones: they set what the option sets, or are refused beside it."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from resx.bench.load.load_plan import concurrencies, rates
from resx.cli.main import COMMANDS, app
from resx.cli.options.aliases import Alias, survival_of
from resx.cli.options.grouping import typed_options, ungroup
from resx.cli.options.training import NetworkOptions, RecipeOptions
from resx.errors import UsageError
from tests.support.command import Resx

ROOT_COMMAND = typer.main.get_command(app)
NAMES = [command.__name__ for commands in COMMANDS.values() for command in commands]
TALKS_TO_A_SERVER = (
    "status", "deploy", "rollback", "undeploy", "gc", "query", "predict", "bench", "tune", "plan", "verify",
)  # fmt: skip


def read(*arguments: str) -> tuple[NetworkOptions, RecipeOptions, dict[str, str]]:
    """Return what `train` would get, and what counts as typed."""
    seen = []

    def command(context: typer.Context, network: NetworkOptions, recipe: RecipeOptions) -> None:
        seen.append((network, recipe, typed_options(context)))

    program = typer.Typer()
    program.command()(ungroup(command))
    done = CliRunner().invoke(program, list(arguments))
    if done.exception is not None and not seen:
        raise done.exception
    return seen[0]


@pytest.mark.parametrize(
    ("arguments", "group", "field", "value"),
    [
        (("--lr", "0.05"), 1, "learning_rate", 0.05),
        (("--lr=1e-3",), 1, "learning_rate", 0.001),
        (("--clip-grad", "2"), 1, "clip_norm", 2.0),
        (("--drop-path", "0.2"), 0, "survival", 0.8),
        (("--stochastic-depth-prob", "0"), 0, "survival", 1.0),
        (("--learning-rate", "0.05"), 1, "learning_rate", 0.05),
        ((), 1, "clip_norm", None),
        ((), 0, "survival", None),
    ],
)
def test_an_alias_sets_what_the_option_sets(arguments: tuple[str, ...], group: int, field: str, value: object) -> None:
    found = read(*arguments)

    assert getattr(found[group], field) == value
    assert list(found[2]) == ([field] if arguments else [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--lr", "0.1", "--learning-rate", "0.1"), "--learning-rate and --lr: set the same value; give one of them"),
        (("--survival", "0.5", "--drop-path", "0.5"), "--survival and --drop-path"),
        (("--drop-path", "0.5", "--stochastic-depth-prob", "0.5"), "--drop-path and --stochastic-depth-prob"),
        (("--clip-norm", "0", "--clip-grad", "0"), "--clip-norm and --clip-grad"),
        (("--drop-path", "1"), "--drop-path 1: give a probability in [0, 1)"),
        (("--stochastic-depth-prob", "-0.1"), "--stochastic-depth-prob -0.1: give a probability"),
    ],
)
def test_a_value_that_is_given_twice_or_is_none_is_refused(resx: Resx, arguments: tuple[str, ...], words: str) -> None:
    done = resx("train", "resnet20", *arguments)

    assert (done.code, words in done.err, len(done.err.splitlines())) == (2, True, 1), done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--lr", "0"), "--lr"),
        (("--lr", "nan"), "--lr"),
        (("--clip-grad", "-1"), "--clip-grad"),
        (("--drop-path", "x"), "--drop-path"),
    ],
)
def test_an_alias_has_the_bounds_of_its_option(resx: Resx, arguments: tuple[str, ...], words: str) -> None:
    done = resx("train", "resnet20", *arguments)

    assert (done.code, words in done.err) == (2, True), done.err


def test_two_names_of_a_server_are_refused_and_the_older_one_works(resx: Resx) -> None:
    predict = ("predict", "m", "p", "-o", "o.csv")
    for older, command in (("--server", predict), ("--served", ("verify", "m"))):
        done = resx(*command, "--url", "127.0.0.1:9", older, "127.0.0.1:9")
        assert (done.code, f"--url and {older}: set the same value" in done.err) == (2, True), done.err
    assert "both choose where to compute" in resx(*predict, "--server", "127.0.0.1:9", "--ray", "local").err


@pytest.mark.parametrize("name", TALKS_TO_A_SERVER)
def test_every_command_that_asks_a_server_calls_it_url(name: str) -> None:
    params = ROOT_COMMAND.commands[name].params  # type: ignore[attr-defined]
    shown = {one for param in params if not getattr(param, "hidden", False) for one in param.opts}
    assert "--url" in shown
    assert not {"--server", "--served"} & shown


def test_no_help_names_an_alias() -> None:
    aliases = {"--lr", "--clip-grad", "--drop-path", "--stochastic-depth-prob", "--server", "--served"}
    hidden = {
        one
        for name in NAMES
        for param in ROOT_COMMAND.commands[name].params  # type: ignore[attr-defined]
        if getattr(param, "hidden", False)
        for one in param.opts
    }
    assert hidden == aliases


def test_a_command_without_a_context_of_its_own_takes_aliases() -> None:
    seen = []

    def command(rate: Annotated[float, typer.Option(), Alias(name="--other")] = 1.0) -> None:
        seen.append(rate)

    program = typer.Typer()
    program.command()(ungroup(command))
    for arguments in ([], ["--rate", "2"], ["--other", "3"]):
        assert CliRunner().invoke(program, arguments).exit_code == 0
    assert seen == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(("dropped", "survival"), [(0.0, 1.0), (0.1, 0.9), (0.3, 0.7), (0.9, 0.1)])
def test_the_probability_to_be_dropped_is_one_minus_survival(dropped: float, survival: float) -> None:
    assert survival_of("--drop-path", dropped) == survival


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1:16:4", [1, 5, 9, 13]), ("2:10:4", [2, 6, 10]), ("1:16", [1, 2, 4, 8, 16]), ("1,4:6:1", [1, 4, 5, 6])],
)
def test_a_range_of_concurrencies_is_perf_analyzer_s(text: str, expected: list[int]) -> None:
    assert concurrencies(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50:200:50", [50, 100, 150, 200]),
        ("10:25:10", [10, 20]),
        ("0.1:0.3:0.1", [0.1, 0.2, 0.3]),
        ("5,10:20:10", [5, 10, 20]),
        ("7:7:1", [7]),
    ],
)
def test_a_range_of_rates_is_perf_analyzer_s(text: str, expected: list[float]) -> None:
    assert rates(text) == expected


@pytest.mark.parametrize("text", ["10:20", "20:10:5", "1:2:3:4", "10:20:0", "1:100000:1", "a:b:c", "1::2", "nan:5:1"])
def test_a_range_of_rates_that_is_none_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--rate .*: .*give"):
        rates(text)


@pytest.mark.parametrize("text", ["16:1:4", "1:16:0", "1:2:3:4", "1:a:2", "0:4:1", "1::2"])
def test_a_range_of_concurrencies_that_is_none_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--concurrency .*: give"):
        concurrencies(text)
