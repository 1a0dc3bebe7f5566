"""How contents are spoiled: bytes, text and JSON, as hypothesis strategies.

A strategy starts from a sound content, because what is refused in its first byte tries nothing behind it.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

TRAP = "trap:make"
"""Code in the working folder that a foreign file may name; it runs only if resx goes wrong (`isolated.plant`)."""
NASTY_TEXT = st.sampled_from(
    [
        "", " ", "\0", "\n", "a\nb", "\r", "\x1b]0;TITLE\x07\x1b[31mRED", "\x9b31m", "\u202etxt", "\u2028", "\ud800",
        "\udcff", 'a"b', "a\\", "'",
        'y" data_type: TYPE_FP32 } ] parameters { key: "EXECUTION_ENV_PATH" value { string_value: "trap.tar.gz" } }',
        "`touch RAN`", "$(touch RAN)", "; touch RAN;", "| touch RAN", "-rf", "--repository=/", "=1+1", "+1", "@SUM(A1)",
        "../secret.txt", "../../secret.txt", "/etc/passwd", "/dev/zero", "/dev/stdin", "file:///etc/passwd", "C:\\x",
        ".", "..", "a/../..", TRAP, "os:system", "module:function", "hf:../..", "timm:", "torchvision:resnet18",
        "[red]x[/red]", "[link=http://evil.example]x[/link]", ":boom:", "{0}", "{x.__class__}", "%s%s%n", "é" * 300,
        "a" * 300, "a" * 100_000, "nan", "inf", "-1", "1e400", "9" * 5000, "true", "null", "[]", "0x10", "١٢",
    ]
)  # fmt: skip
NASTY_NUMBER = st.sampled_from(
    [0, -1, -5, 1, 2**31, 2**63, 2**64, 10**9, 10**12, 10**30, 0.5, 1e-300, 1e300, float("nan"), float("inf"), True]
)
NASTY_VALUE = st.one_of(
    NASTY_TEXT,
    NASTY_NUMBER,
    st.none(),
    st.just([]),
    st.just({}),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=4),
    st.just([[[[]]]]),
    st.just({"": {"": 0}}),
    st.just([0] * 2000),
)
_DEEP = b"[" * 200_000


def spoiled_text() -> st.SearchStrategy[str]:
    """Give a name as a stranger chooses it."""
    return st.one_of(NASTY_TEXT, st.text(max_size=40), st.builds("{}{}".format, st.text(max_size=5), NASTY_TEXT))


def spoiled_bytes(sound: bytes) -> st.SearchStrategy[bytes]:
    """Give the content with some of its bytes flipped, taken out, doubled or replaced by nasty ones, or cut off."""
    places = st.integers(0, max(len(sound) - 1, 0))
    # Headers are where lengths stand.
    places = st.one_of(st.integers(0, min(len(sound) - 1, 200)) if sound else st.just(0), places)
    pieces = st.one_of(
        st.binary(min_size=1, max_size=8),
        st.just(b"\xff" * 8),
        st.just(b"\0" * 8),
        st.just(b"\x7f" + b"\xff" * 7),
        NASTY_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")),
    )
    edit = st.tuples(st.sampled_from([*2 * ["flip", "replace", "insert", "remove", "double"], "cut"]), places, pieces)
    return st.lists(edit, min_size=1, max_size=3).map(lambda edits: _edited(sound, edits))


def _edited(sound: bytes, edits: list[tuple[str, int, bytes]]) -> bytes:
    content = bytearray(sound)
    for what, place, piece in edits:
        if what == "flip" and place < len(content):
            content[place] ^= int.from_bytes(piece[:1], "big") or 1
        elif what == "replace":
            content[place : place + len(piece)] = piece
        elif what == "insert":
            content[place:place] = piece
        elif what == "remove":
            del content[place : place + 16 * len(piece)]
        elif what == "double":
            content[place:place] = content[place : place + 64]
        elif what == "cut" and place:
            del content[place:]
    return bytes(content)


def spoiled_json(sound: Any) -> st.SearchStrategy[bytes]:
    """Give the document with one to three values replaced, taken out or named otherwise, or its bytes spoiled."""
    paths = list(_paths(sound))
    change = st.tuples(
        st.sampled_from(paths), st.sampled_from(["value", "value", "value", "remove", "name"]), NASTY_VALUE
    )
    documents = st.lists(change, min_size=1, max_size=3).map(lambda changes: _changed(sound, changes))
    return st.one_of(
        documents,
        documents,
        documents,
        spoiled_bytes(json.dumps(sound).encode()),
        NASTY_VALUE.map(lambda value: json.dumps(value).encode()),
        st.just(_DEEP),
        st.just(b'{"a":' * 100_000),
    )


def _paths(value: Any, above: tuple[Any, ...] = ()) -> Any:
    """Yield the ways to each value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inside:
        yield (*above, key)
        yield from _paths(below, (*above, key))


def _changed(sound: Any, changes: list[tuple[tuple[Any, ...], str, Any]]) -> bytes:
    document = copy.deepcopy(sound)
    for path, what, value in changes:
        place = document
        try:
            for key in path[:-1]:
                place = place[key]
            if what == "value":
                place[path[-1]] = value
            elif what == "remove":
                del place[path[-1]]
            elif isinstance(place, dict):
                place[str(value)] = place.pop(path[-1])
        except (KeyError, IndexError, TypeError):  # an earlier change took it
            continue
    return json.dumps(document).encode()


def spoiled_lines(sound: str) -> st.SearchStrategy[bytes]:
    """Give the text with lines of it replaced, doubled or taken out, or words in quotes replaced."""
    lines = sound.splitlines()
    change = st.tuples(
        st.integers(0, max(len(lines) - 1, 0)),
        st.sampled_from(["line", "quoted", "double", "remove", "number"]),
        spoiled_text(),
        NASTY_NUMBER,
    )
    return st.one_of(
        st.lists(change, min_size=1, max_size=4).map(lambda changes: _relined(lines, changes)),
        spoiled_bytes(sound.encode()),
    )


def _relined(lines: list[str], changes: list[tuple[int, str, str, Any]]) -> bytes:
    made = list(lines)
    for place, what, text, number in changes:
        if place >= len(made):
            continue
        line = made[place]
        if what == "line":
            made[place] = text
        elif what == "quoted" and line.count('"') >= 2:
            first, last = line.index('"'), line.rindex('"')
            made[place] = f"{line[: first + 1]}{text}{line[last:]}"
        elif what == "double":
            made.insert(place, line)
        elif what == "remove":
            del made[place]
        elif what == "number":
            made[place] = "".join(str(number) if character.isdigit() else character for character in line)
    return "\n".join(made).encode("utf-8", "surrogatepass")
