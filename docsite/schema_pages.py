"""The reference of resx's JSON: each published schema as tables, one for each object in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"

_ABOUT = {
    "card": (
        "A version's card",
        "`card.json` lies beside each published file and says what it is: source, steps with their parity numbers, "
        "self-test, file hashes, tool versions. `resx info NAME` shows it.",
        "resx info --schema",
    ),
    "bench": (
        "A benchmark's result",
        "`resx bench NAME -o FILE` writes it, and `--json` prints it.",
        "resx bench --schema",
    ),
    "json": (
        "Every command's JSON",
        "What `resx COMMAND --json` prints, by command; [For programs](programs.md) has errors and exit codes.",
        "make schemas",
    ),
}
"""Title, purpose, and the command that prints the schema. Another command's result is what its `--json` prints."""


def names() -> list[str]:
    """Return what has a published schema: docs/NAME.schema.json."""
    return sorted(path.name.removesuffix(".schema.json") for path in DOCS.glob("*.schema.json"))


def title(name: str) -> str:
    """Return what a reader calls it."""
    return _about(name)[0]


def _about(name: str) -> tuple[str, str, str]:
    command = f"resx {name}"
    return _ABOUT.get(name, (f"The result of {command}", f"`{command} --json` prints it.", f"{command} --schema"))


_LINES = 190
"""Of a page at most; what is left goes on another one."""


def render_pages() -> dict[str, str]:
    """Return the pages below docs/: their paths with their Markdown."""
    pages = {}
    for name in names():
        for number, text in enumerate(_pages(name, *_about(name)), start=1):
            pages[f"reference/{_file_name(name, number)}"] = text
    return pages


def _file_name(name: str, number: int) -> str:
    return f"{name}.md" if number == 1 else f"{name}-{number}.md"


def _pages(name: str, heading: str, purpose: str, command: str) -> list[str]:
    schema = json.loads((DOCS / f"{name}.schema.json").read_text())
    source = f"Generated from [{name}.schema.json](../{name}.schema.json), which `{command}` writes."
    pages = [[f"# {heading}", "", purpose, "", source, "", *_table(schema)]]
    homes = {}
    for part, definition in schema.get("$defs", {}).items():
        section = ["", f"## {part}", "", " ".join(definition.get("description", "").split()), "", *_table(definition)]
        if len(pages[-1]) + len(section) > _LINES:
            pages.append([f"# {heading}, part {len(pages) + 1}", "", source])
        pages[-1] += section
        homes[part] = _file_name(name, len(pages))
    return [_link("\n".join(lines) + "\n", homes) for lines in pages]


def _link(text: str, homes: dict[str, str]) -> str:
    """Turn the references to parts into links to the pages that have them."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: f"[{found[1]}]({homes[found[1]]}#{found[1].lower()})", text)


def _table(schema: dict[str, Any]) -> list[str]:
    if "enum" in schema:
        return ["One of " + ", ".join(f"`{one}`" for one in schema["enum"]) + "."]
    required = schema.get("required", [])
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for name, field in schema.get("properties", {}).items():
        meaning = " ".join(field.get("description", "").split())
        if name not in required and field.get("default") not in (None, "", [], {}):
            meaning += f" Default: `{json.dumps(field['default'])}`."
        mark = "" if name in required else " (optional)"
        lines.append(f"| `{name}`{mark} | {_type(field)} | {meaning.strip().replace('|', chr(92) + '|')} |")
    return lines


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return "{{" + field["$ref"].rpartition("/")[2] + "}}"
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return " or ".join(f"`{json.dumps(one)}`" for one in field["enum"])
    for choice in ("anyOf", "oneOf"):
        if choice in field:
            return " or ".join(dict.fromkeys(map(_type, field[choice])))
    match field.get("type"):
        case "array":
            parts = field.get("prefixItems")
            return f"\\[{', '.join(map(_type, parts))}]" if parts else f"list of {_type(field.get('items', {}))}"
        case "object":
            values = field.get("additionalProperties")
            return f"name to {_type(values)}" if isinstance(values, dict) else "object"
        case None:
            return "any"
        case kind:
            return str(kind)
