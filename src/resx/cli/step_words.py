"""The steps' words: one text is the running step on a terminal and the finished one that stays in the log.

Rooms announce steps as `load PyTorch` or `NAME: write ONNX and verify it`. What runs reads `Loading PyTorch`, what is
done `Loaded PyTorch`. A text that begins with another word is shown as it is, but for its first letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_IRREGULAR = {
    "build": ("building", "built"),
    "draw": ("drawing", "drew"),
    "find": ("finding", "found"),
    "read": ("reading", "read"),
    "run": ("running", "ran"),
    "send": ("sending", "sent"),
    "stop": ("stopping", "stopped"),
    "write": ("writing", "wrote"),
}
_REGULAR = frozenset((
    "ask", "calibrate", "check", "compare", "compile", "compute", "copy", "deploy", "evaluate", "export", "fetch",
    "fold", "gather", "load", "measure", "monitor", "open", "publish", "quantize", "query", "repeat", "replace",
    "restore", "resume", "retry", "reuse", "simulate", "start", "test", "train", "unpack", "verify", "wait",
))  # fmt: skip
_BEGINNING = re.compile(r"^(?P<before>(?:\[\d+/\d+\] )?)(?P<name>(?:\S+: )?)(?P<verb>[a-z]+)\b")
_FURTHER = re.compile(r"(, | and )([a-z]+)\b")


def running(step: str) -> str:
    """Return a step as it runs: `Loading PyTorch`."""
    return _conjugate(step, _running)


def finished(step: str) -> str:
    """Return a step that ended: `Loaded PyTorch`."""
    return _conjugate(step, _finished)


def _conjugate(step: str, form: Callable[[str], str]) -> str:
    found = _BEGINNING.match(step)
    if found is None:
        return step
    verb, rest = found["verb"], step[found.end() :]
    if form(verb) != verb:
        rest = _FURTHER.sub(lambda one: one[1] + form(one[2]), rest)
    elif rest[:1] not in {"", " "}:  # a name, as in `digits, concurrency 4`
        return step
    word = form(verb)
    return found["before"] + found["name"] + (word if found["name"] else word.capitalize()) + rest


def _running(verb: str) -> str:
    if verb in _IRREGULAR:
        return _IRREGULAR[verb][0]
    return f"{verb.removesuffix('e')}ing" if verb in _REGULAR else verb


def _finished(verb: str) -> str:
    if verb in _IRREGULAR:
        return _IRREGULAR[verb][1]
    if verb not in _REGULAR:
        return verb
    if verb[-1] == "y" and verb[-2] not in "aeo":
        return f"{verb[:-1]}ied"
    return f"{verb.removesuffix('e')}ed"
