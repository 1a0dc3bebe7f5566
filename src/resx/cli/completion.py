"""What a shell proposes for a value: choices, variants, runs, and a repository's models with their versions.

Names are read off the folders themselves, so that a proposal takes no longer than `resx --help`, and a repository that
cannot be read proposes nothing.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import typer

_VARIABLE = "_RESX_COMPLETE"
"""Set by the shell's script, which `resx --show-completion` prints."""
_RUN_FILE, _MODEL_FILE = "spec.json", "config.pbtxt"
_CHOICES = re.compile(r"\[([\w.-]+(?:\|[\w.-]+)*)\](,\.\.\.)?")


def is_asked(environment: MutableMapping[str, str]) -> bool:
    """Whether a shell asks for proposals."""
    return _VARIABLE in environment


def answer(propose: Callable[[], object], environment: MutableMapping[str, str]) -> int:
    """Print what `propose` does, without the part of a word that bash has; whatever fails proposes nothing."""
    said, code, begun = io.StringIO(), 0, ""
    try:
        begun = _join_words(environment) if environment[_VARIABLE] == "complete_bash" else ""
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
            propose()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except Exception:  # a shell in the midst of a line shows no error
        return 1
    proposed = said.getvalue()
    if proposed.strip():
        sys.stdout.write("".join(line.removeprefix(begun) for line in proposed.splitlines(keepends=True)))
    return code


def _join_words(environment: MutableMapping[str, str]) -> str:
    """Join `NAME`, `:` and `1` again, which bash has for words; return what it has of the last one before its end."""
    words, cursor = environment.get("COMP_WORDS", "").split("\n"), int(environment.get("COMP_CWORD", "0"))
    if not {":", "="} & {*words}:
        return ""
    joined: list[str] = []
    parts: list[str] = []
    for index, word in enumerate(words[: cursor + 1]):
        if index > 1 and (word in {":", "="} or parts[-1] in {":", "="}):
            joined[-1] += word
            parts.append(word)
        else:
            joined.append(word)
            parts = [word]
    environment["COMP_WORDS"], environment["COMP_CWORD"] = "\n".join(joined), str(len(joined) - 1)
    colon = joined[-1].rfind(":") + 1 if ":" in parts else 0
    return joined[-1][:colon]


def choices_of(metavar: str | None) -> tuple[str, ...]:
    """Return the words of a metavar such as `[cpu|gpu]`; none of another."""
    found = _CHOICES.fullmatch(metavar or "")
    return tuple(found[1].split("|")) if found else ()


def choice_completer(metavar: str | None) -> Callable[..., list[str]] | None:
    """Return what proposes the choices of a metavar, each behind a comma where several may be named."""
    words = choices_of(metavar)
    if not words:
        return None

    def complete(incomplete: str) -> list[str]:
        before = incomplete[: incomplete.rfind(",") + 1] if str(metavar).endswith(",...") else ""
        return [before + word for word in words if word not in before.split(",")]

    return complete


def complete_variant() -> list[str]:
    """Propose the variants."""
    from resx.zoo.catalog import VARIANTS

    return list(VARIANTS)


def complete_run(incomplete: str) -> list[str]:
    """Propose the runs in `runs/`, and those in the folder that is being typed."""
    return sorted({*_runs_below(Path("runs")), *_runs_below(Path(incomplete.rpartition("/")[0]))})


def complete_source(incomplete: str) -> list[str]:
    """Propose variants and runs."""
    return [*complete_variant(), *complete_run(incomplete)]


def complete_model(context: typer.Context) -> list[str]:
    """Propose the models of the repository."""
    return list(_models(_repository(context)))


def complete_model_version(context: typer.Context, incomplete: str) -> list[str]:
    """Propose models, and behind a colon the versions of one."""
    name, colon, _ = incomplete.partition(":")
    if colon:
        return [f"{name}:{version}" for version in _versions(_repository(context) / name)]
    return complete_model(context)


def complete_version(context: typer.Context) -> list[str]:
    """Propose the versions of the model that is named already."""
    # While an option has no value yet, the words before it are no parameters.
    name = context.params.get("name") or context.params.get("subject") or next(iter(context.args), None)
    return [str(version) for version in _versions(_repository(context) / str(name))] if name else []


def complete_thing(context: typer.Context, incomplete: str) -> list[str]:
    """Propose variants, runs and models."""
    return [*complete_source(incomplete), *complete_model_version(context, incomplete)]


def _repository(context: Any) -> Path:
    return Path(context.params.get("repository") or "model_repository")


def _models(repository: Path) -> Iterator[str]:
    """Yield the models without their image endpoints."""
    names = {entry.name for entry in _folders(repository) if Path(entry.path, _MODEL_FILE).is_file()}
    for name in sorted(names):
        base, _, kind = name.rpartition("_")
        if kind not in ("image", "preprocess") or base not in names:
            yield name


def _versions(model: Path) -> list[int]:
    return sorted(int(entry.name) for entry in _folders(model) if re.fullmatch(r"[1-9]\d{0,17}", entry.name))


def _runs_below(folder: Path) -> Iterator[str]:
    return (str(folder / entry.name) for entry in _folders(folder) if Path(entry.path, _RUN_FILE).is_file())


def _folders(folder: Path) -> Iterable[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        return []
