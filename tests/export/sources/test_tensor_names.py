"""Names of a file's tensors: taken as converters write them, and refused where another format cannot hold them."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import ModelProto

from resx.card.signature import Signature
from resx.errors import UsageError
from resx.text import one_line
from tests.support.onnx_files import load_file, network, saved

INJECTION = (
    'y" data_type: TYPE_FP32 dims: [ 10 ] } ]\nparameters { key: "INJECTED" value { string_value: "1" } }\n'
    'output [ { name: "y'
)


def renamed(model: ModelProto, what: str, name: str | bytes) -> ModelProto:
    """Give the only input or output another name; bytes that are no UTF-8 are put in behind protobuf's back."""
    old = {"input": "given", "output": "scores"}[what]
    new = name if isinstance(name, str) else "N" * len(name)
    for value in getattr(model.graph, what):
        value.name = new
    for node in model.graph.node:
        names = getattr(node, what)
        names[:] = [new if one == old else one for one in names]
    return (
        model if isinstance(name, str) else ModelProto.FromString(model.SerializeToString().replace(new.encode(), name))
    )


@pytest.mark.parametrize("what", ["input", "output"])
@pytest.mark.parametrize(
    "name",
    [
        INJECTION,
        'a"b',
        "a'b",
        "a\\\\b",
        "a\tb",
        "y\\",
        "n" * 300,
        "a\u2028b",
        "a\u202eb",
        "a\x1b[31mb",
        "",
        b"NN\xff\xfeNN",
    ],
)
def test_a_tensors_name_that_other_formats_cannot_hold_is_refused(tmp_path: Path, what: str, name: str | bytes) -> None:
    path = saved(renamed(network(), what, name), tmp_path)
    with pytest.raises(UsageError, match=rf"theirs\.onnx: {what} '.*': the name of an input or output is") as raised:
        load_file(path)
    assert one_line(str(raised.value)) == str(raised.value)


@pytest.mark.parametrize("name", ["serving_default_input:0", "StatefulPartitionedCall/dense [0]", "n" * 256, "größe"])
def test_names_as_converters_write_them_are_taken(tmp_path: Path, name: str) -> None:
    assert load_file(saved(renamed(network(), "output", name), tmp_path)).signature.output_name == name


@pytest.mark.parametrize("what", ["input", "output"])
def test_the_refusal_of_a_name_holds_the_command_that_renames_it(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(renamed(network(), what, INJECTION), tmp_path, "it's $HOME")
    with pytest.raises(UsageError) as raised:
        load_file(path)
    words = shlex.split(str(raised.value).partition("rename it: ")[2])
    subprocess.run([sys.executable, *words[1:]], check=True)
    signature = load_file(tmp_path / "renamed.onnx").signature
    assert (signature.input_name, signature.output_name) == {
        "input": ("image", "scores"),
        "output": ("given", "logits"),
    }[what]


def test_a_card_with_such_a_name_is_not_read(tmp_path: Path) -> None:
    fields = load_file(saved(network(), tmp_path)).signature.model_dump()
    with pytest.raises(ValueError, match="the name of an input or output is"):
        Signature.model_validate(fields | {"output_name": INJECTION})
