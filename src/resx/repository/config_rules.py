"""What no model's folder may say or hold, whoever wrote it: ways out of the folder, and code that it need not bring.

A repository may come from somebody else. Python models (`model.py` on the backend `python`) are code and run; every
other model is data, but Triton finds more in its folder than its file:

    parameters               EXECUTION_ENV_PATH: an archive that is unpacked, and its bin/activate sourced, for our
                             onnxruntime backend too; paths that onnxruntime, OpenVINO and others read, write or load
    file names               of labels, warm-up data, initial states and the model itself: `..` and `/` are followed
    names                    of the model's file, its instances and an ensemble's models: parts of a shell's command
                             line, where `$(...)` is run (plain_paths.py)
    backend, runtime         names of libraries, looked for in the version's folder first
    model_operations, agents libraries that are loaded
    ensembles                load the models that they name, from the repository
    libtriton_*.so           in the model's folder: loaded in place of the server's own backend
    triton_python_backend_stub in the model's folder: started in place of the server's own program

Sources: model_config.proto; core, backend_model.cc and backend_config.cc; python_backend's README; the session options
of onnxruntime_session_options_config_keys.h; openvino_backend's README. Tried on 2.51: the archive, the library and
the stub run, and so do commands in the name of a file, an instance or an ensemble's model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from resx.errors import UsageError
from resx.names import is_model_name
from resx.repository.config_pbtxt import CONFIG_FILE, read
from resx.text import one_line

# Words of a parameter's name that say that its value is a file, a folder or a library.
_FILE_WORDS = ("path", "paths", "file", "files", "filename", "filepath", "dir", "dirs", "directory", "folder", "root",
               "lib", "library", "libraries", "plugin", "plugins", "extension", "extensions", "profiling", "executable",
               "command", "script")  # fmt: skip
_ENDINGS = ("path", "filename", "library")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_LIBRARY = re.compile(r"libtriton_.*\.so(\..*)?")
_STUB = "triton_python_backend_stub"
_CODE = frozenset({".py", ".pyc", ".so", ".pyd"})
_CODE_BACKENDS = frozenset({"python", "pytorch", "dali"})
"""Whose models are code, or may be."""
_HARMLESS_AGENT = "checksum"


def read_checked(root: Path, name: str) -> Any:
    """Return a model's configuration after `require_contained`.

    Args:
        root: the repository's folder.
        name: the model's.

    Raises:
        UsageError: as `require_contained`, or there is no configuration.
    """
    require_contained(root, name)
    return read(root / name / CONFIG_FILE)


def require_contained(root: Path, name: str) -> None:
    """Check a model of a repository, and those that it would load as an ensemble.

    Raises:
        UsageError: one leads out of its folder or brings code of its own; the message names model, place and remedy.
    """
    waiting, seen = [name], set[str]()
    while waiting:
        model = waiting.pop()
        if model in seen or not (root / model).is_dir():
            continue
        seen.add(model)
        _require_own_files(root, model)
        config = root / model / CONFIG_FILE
        message = read(config) if config.exists() else None
        if message is not None:
            require_harmless(message, model)
            waiting += [step.model_name for step in message.ensemble_scheduling.step]
        if message is None or message.backend not in _CODE_BACKENDS:
            _require_no_code(root, model)


def require_harmless(message: Any, name: str) -> None:
    """Check a configuration alone, such as one that is to be written or sent.

    Args:
        message: Triton's ModelConfig.
        name: the model's, for the message.

    Raises:
        UsageError: it leads out of the model's folder, or names a program or library.
    """
    for where, value, remedy in _findings(message):
        shown = one_line(where if not value else f"{where}: {value}")
        raise UsageError(f"{name}: {CONFIG_FILE}: {shown[:200]}: {remedy}")


def _findings(message: Any) -> Iterator[tuple[str, str, str]]:
    """Yield place, value and reason with remedy of what may not stand in a configuration."""
    accelerators = message.optimization.execution_accelerators
    for where, keys in (
        ("parameters", list(message.parameters)),
        *(
            (f"execution_accelerators {one.name}", list(one.parameters))
            for one in (*accelerators.gpu_execution_accelerator, *accelerators.cpu_execution_accelerator)
        ),
    ):
        for key in keys:
            if _names_a_file(key):
                yield f"{where} {key}", "", _why(key)
    for where, file in _files(message):
        if _leads_out(file):
            yield where, file, "leads out of its folder; put the file there and give only its name"
    for where, plain in (("backend", message.backend), ("platform", message.platform)):
        if plain and not _is_plain(plain):
            yield where, plain, "a backend's name has only letters, digits, `_`, `.` and `-`; correct it"
    for where, shell_word in _shell_words(message):
        if shell_word and not all(map(_is_plain, PurePosixPath(shell_word).parts)):
            yield where, shell_word, "is passed to a shell; use only letters, digits, `_`, `.`, `+` and `-`"
    for step in message.ensemble_scheduling.step:
        if not is_model_name(step.model_name):
            yield "ensemble_scheduling model_name", step.model_name, "is not a model of the repository; choose one"
    if message.runtime not in ("", "model.py", f"libtriton_{message.backend}.so"):
        yield "runtime", message.runtime, "a library that would be loaded; remove the line (the backend has its own)"
    for library in message.model_operations.op_library_filename:
        yield "model_operations op_library_filename", library, "a library that would be loaded; remove it"
    for agent in message.model_repository_agents.agents:
        if agent.name != _HARMLESS_AGENT:
            yield "model_repository_agents", agent.name, f"a program; remove it ({_HARMLESS_AGENT} is allowed)"


def _why(key: str) -> str:
    if key.upper() == "EXECUTION_ENV_PATH":
        return (
            "an archive that the server would unpack and run; remove it, and install what the model imports into the "
            "environment that serves it"
        )
    return "a file, folder or library outside of the model's folder; remove it"


def _files(message: Any) -> Iterator[tuple[str, str]]:
    """Yield the names of files that Triton joins to the model's folder."""
    yield "default_model_filename", message.default_model_filename
    for capability, file in message.cc_model_filenames.items():
        yield f"cc_model_filenames {capability}", file
    for output in message.output:
        yield f"output {output.name} label_filename", output.label_filename
    for sample in message.model_warmup:
        for tensor in sample.inputs.values():
            yield f"model_warmup {sample.name} input_data_file", tensor.input_data_file
    for state in message.sequence_batching.state:
        for initial in state.initial_state:
            yield f"sequence_batching {state.input_name} data_file", initial.data_file


def _shell_words(message: Any) -> Iterator[tuple[str, str]]:
    """Yield the names that Triton puts into the command line of a model's process."""
    yield "default_model_filename", message.default_model_filename
    for group in message.instance_group:
        yield "instance_group name", group.name


def _names_a_file(key: str) -> bool:
    """Say whether a parameter's name has a word for a file in it, in snake_case, camelCase or capitals."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).lower())
    return any(word in _FILE_WORDS or word.endswith(_ENDINGS) for word in words)


def _leads_out(file: str) -> bool:
    path = PurePosixPath(file.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or "\0" in file


def _is_plain(name: str) -> bool:
    return _PLAIN.fullmatch(name) is not None and ".." not in name


def _require_own_files(root: Path, model: str) -> None:
    """Check that no link in the folder leads out of it and of the repository, and that no program lies in it."""
    folder = root / model
    inside = (folder.resolve(), root.resolve())
    for path in _entries(folder):
        shown = one_line(str(path.relative_to(root)))
        if path.is_symlink():
            target = _target(path)
            if not any(target.is_relative_to(place) for place in inside):
                raise UsageError(f"{model}: {shown}: is a link that leads out of the repository; copy the file there")
        if path.name == _STUB or _LIBRARY.fullmatch(path.name):
            raise UsageError(f"{model}: {shown}: the server would run it instead of its own; delete it")


def _require_no_code(root: Path, model: str) -> None:
    """Check a model that is data: Python looks for modules in the model's folder and its version's."""
    for path in _entries(root / model):
        if path.suffix in _CODE and not path.is_dir():
            shown = one_line(str(path.relative_to(root)))
            raise UsageError(
                f"{model}: {shown}: code, which is allowed for models of the python backend only; delete it"
            )


def _entries(folder: Path) -> Iterable[Path]:
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent) / entry for entry in sorted((*folders, *files)))


def _target(link: Path) -> Path:
    try:
        return link.resolve()
    except (OSError, RuntimeError):  # a loop
        return Path("/")
