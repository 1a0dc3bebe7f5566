"""What users and their scripts rely on: it stays as it is when the code behind it moves.

The golden files are in tests/contract/. A wanted change of the contract is written there by
`RESX_WRITE_CONTRACT=1 python -m pytest tests/test_contract.py`, and read in the diff.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer

import resx
from resx import errors
from resx.cli.main import app

_GOLDEN = Path(__file__).parent / "contract"
_DOCS = Path(__file__).parents[1] / "docs"


def _compare_with_golden(name: str, found: str) -> None:
    golden = _GOLDEN / name
    if os.environ.get("RESX_WRITE_CONTRACT"):
        golden.write_text(found)
    assert found == golden.read_text()


def _commands() -> Iterator[tuple[str, click.Command]]:
    root = typer.main.get_command(app)
    yield "resx", root
    for name, command in sorted(root.commands.items()):  # type: ignore[attr-defined]
        yield f"resx {name}", command


def test_commands_have_the_arguments_and_options_that_they_had() -> None:
    lines = []
    for name, command in _commands():
        lines.append(name)
        for parameter in sorted(command.params, key=lambda parameter: parameter.name or ""):
            spelled = "/".join(
                sorted(parameter.opts + parameter.secondary_opts)
                if parameter.param_type_name == "option"
                else [f"<{parameter.name}>"]
            )
            many = " ..." if parameter.nargs == -1 or getattr(parameter, "multiple", False) else ""
            lines.append(f"    {spelled}{many}")
    _compare_with_golden("options.txt", "\n".join(lines) + "\n")


def test_errors_have_the_exit_codes_that_they_had() -> None:
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.ResxError)]
    _compare_with_golden("exit_codes.txt", "".join(f"{kind.__name__} {kind.exit_code}\n" for kind in kinds))


def test_the_package_gives_what_it_gave() -> None:
    signatures = []
    for name in sorted(resx.__all__):
        found = getattr(resx, name)
        shown = inspect.signature(found) if callable(found) else ""
        signatures.append(f"{name}{re.sub(r'<function .*? at 0x[0-9a-f]+>', '...', str(shown))}\n")
        if inspect.isclass(found) and found.__module__.startswith("resx.api."):
            public = [method for method in sorted(vars(found)) if not method.startswith("_")]
            signatures += [f"{name}.{method}\n" for method in public]
    _compare_with_golden("api.txt", "".join(signatures))


@pytest.mark.parametrize(
    ("command", "page"),
    [("info", "card.schema.json"), ("bench", "bench.schema.json"), ("profile", "profile.schema.json")],
)
def test_the_published_schemas_are_what_the_code_writes(command: str, page: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "resx", command, "--schema"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == json.loads((_DOCS / page).read_text())


def _shape(value: Any, name: str = "") -> Iterator[str]:
    """Give the paths of a JSON value with the types that stand there, values left out."""
    match value:
        case dict():
            for key, inner in sorted(value.items()):
                yield from _shape(inner, f"{name}.{key}")
        case list() if value:
            yield from dict.fromkeys(line for inner in value for line in _shape(inner, f"{name}[]"))
        case _:
            yield f"{name} {type(value).__name__}"


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("contract")
    command = ["export", "resnet20", "--name", "m", "--repository", str(folder), "--json"]
    done = subprocess.run([sys.executable, "-m", "resx", *command], capture_output=True, text=True, check=True)
    return folder, json.loads(done.stdout)


def test_an_export_writes_the_files_configuration_and_card_that_it_wrote(export: tuple[Path, Any]) -> None:
    folder, _ = export
    _compare_with_golden(
        "files.txt", "".join(f"{path.relative_to(folder)}\n" for path in sorted(folder.rglob("*")) if path.is_file())
    )
    _compare_with_golden("config.pbtxt", (folder / "m" / "config.pbtxt").read_text())
    card = json.loads((folder / "m" / "1" / "card.json").read_text())
    _compare_with_golden("card.txt", "".join(f"{line}\n" for line in dict.fromkeys(_shape(card))))


def test_an_export_prints_the_json_that_it_printed(export: tuple[Path, Any]) -> None:
    _, printed = export
    _compare_with_golden("export.txt", "".join(f"{line}\n" for line in dict.fromkeys(_shape(printed))))


def test_the_weights_of_a_seed_are_what_they_were() -> None:
    built = resx.build("resnet20", seed=0).state_dict()
    names = "\n".join(f"{name} {tuple(tensor.shape)}" for name, tensor in built.items())
    first = [round(float(tensor.flatten()[0]), 5) for tensor in built.values()]
    found = {"names": hashlib.sha256(names.encode()).hexdigest(), "first": first}
    _compare_with_golden("weights.json", json.dumps(found, indent=1) + "\n")
