"""`import resx` stays light, and its names lead to the functions whatever was imported before."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys

import pytest

import resx
from resx.api import benchmarking, exporting

_HEAVY = ("torch", "numpy", "pydantic", "onnx", "tritonclient", "PIL", "rich", "typer")


def test_the_import_brings_nothing_heavy() -> None:
    program = f"import sys, resx; print([name for name in {_HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("before", ["", "import resx.export.request, resx.bench.load.load_plan\n"])
def test_packages_of_a_functions_name_are_called_as_the_function(before: str) -> None:
    program = before + (
        "import resx\n"
        "from resx.errors import UsageError\n"
        "for function, arguments in ((resx.export, ['nothing-like-it']), (resx.bench, ['a:b'])):\n"
        "    try:\n"
        "        function(*arguments)\n"
        "    except UsageError as error:\n"
        "        print(error)\n"
        "import resx.export.request\n"
        "print(resx.export.request.__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert "nothing-like-it" in lines[0]
    assert lines[1:] == ["a:b: give NAME or NAME:VERSION", "resx.export.request"]


def test_a_package_has_the_functions_signature_and_documentation() -> None:
    assert inspect.signature(resx.export) == inspect.signature(exporting.export)
    assert inspect.signature(resx.bench) == inspect.signature(benchmarking.bench)
    assert "Raises:" in pydoc.render_doc(resx.export, renderer=pydoc.plaintext)


def test_help_names_all_that_there_is() -> None:
    page = pydoc.render_doc(resx, renderer=pydoc.plaintext)
    assert all(name in page for name in resx.__all__)


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'serving_everything'"):
        _ = resx.serving_everything  # type: ignore[attr-defined]
    assert set(resx.__all__) <= set(dir(resx))


def test_every_argument_is_documented() -> None:
    for name in resx.__all__:
        function = getattr(resx, name)
        if inspect.isclass(function) or not callable(function):
            continue
        documented = inspect.getdoc(function) or ""
        for argument in inspect.signature(function).parameters:
            assert f"{argument}: " in documented, f"{name}({argument}=)"
