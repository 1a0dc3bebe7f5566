"""Fill in the YAML files of `templates/` and write them as YAML again.

A template is YAML itself: it is parsed first, and then its scalars `${name}` are replaced, so that a value stays one
scalar, list or mapping wherever it stands. A scalar that is nothing but `${name}` becomes the value, of whatever kind;
one inside a text becomes part of it. None leaves out the key or entry, and a list in a list becomes its entries. The
comment at a template's head is text of one line per line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, TypeAlias

from resx.text import one_line

Fields: TypeAlias = dict[str, Any]
_PLACE = re.compile(r"\$\{(\w+)\}")
_EXPRESSION_LINE = re.compile(r"^( *)((?:- )?)([\w./-]+): !helm '(.*)'$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """An object, and the comment above its YAML."""

    fields: Fields
    comment: str = ""

    @property
    def kind(self) -> str:
        """The object's kind."""
        return str(self.fields["kind"])

    @property
    def name(self) -> str:
        """The object's name."""
        return str(self.fields["metadata"]["name"])

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.kind.lower()}{'-headless' if self.name.endswith('-headless') else ''}.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartValue:
    """A value that a Helm chart takes from its values, in place of one that is known now."""

    key: str
    condition: str = ""
    """Of Go's templates: where it does not hold, the key is left out. Empty: where the value is not empty."""


def fill_in(template: str, values: Mapping[str, Any]) -> Manifest:
    """Return a template of the package as an object.

    Args:
        template: its path in `templates/`.
        values: by the names of the places.
    """
    return fill((resources.files(__package__) / "templates" / template).read_text(), values)


def fill(text: str, values: Mapping[str, Any]) -> Manifest:
    """Return a template's text as an object."""
    import yaml

    lines = [line[1:].removeprefix(" ") for line in text.splitlines() if line.startswith("#")]
    comment = "\n".join(_PLACE.sub(lambda place: one_line(str(values[place[1]])), line) for line in lines)
    return Manifest(fields=_fill(yaml.safe_load(text), values), comment=comment)


def _fill(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, dict):
        pairs = ((key, _fill(entry, values)) for key, entry in value.items())
        return {key: entry for key, entry in pairs if entry is not None}
    if isinstance(value, list):
        return [each for entry in value for each in _entries(entry, _fill(entry, values))]
    if not isinstance(value, str):
        return value
    if place := _PLACE.fullmatch(value):
        return values[place[1]]
    return _PLACE.sub(lambda place: str(values[place[1]]), value)


def _entries(place: Any, filled: Any) -> list[Any]:
    """Return the entries that one entry of a template's list becomes."""
    if filled is None:
        return []
    return filled if isinstance(filled, list) and isinstance(place, str) else [filled]


def text_of(manifests: Sequence[Manifest]) -> str:
    """Return the objects as one multi-document YAML text."""
    return "---\n".join(_comment(one.comment) + dump(one.fields) for one in manifests)


def chart_text(manifest: Manifest) -> str:
    """Return an object with `ChartValue`s as a template of a Helm chart.

    A setting is written as JSON, which is YAML too, so that it stays one value; `{{` in any other text is text.
    """
    text = text_of([manifest]).replace("{{", "{{`{{`}}")
    return _EXPRESSION_LINE.sub(_as_expression, text)


def _as_expression(line: re.Match[str]) -> str:
    indent, dash, key, setting = line.groups()
    condition, _, name = setting.rpartition(" ? ")
    written = f"{indent}{dash}{key}: {{{{ toJson {name} }}}}"
    if dash or condition == "always":
        return written
    return f"{indent}{{{{- if {condition or name} }}}}\n{written}\n{indent}{{{{- end }}}}"


def dump(fields: Mapping[str, Any]) -> str:
    """Return a value as YAML, its keys in their order."""
    import yaml

    return yaml.dump(fields, Dumper=_plain_dumper(), sort_keys=False, width=2**16, allow_unicode=True)


def _plain_dumper() -> Any:
    """Return a writer that names nothing twice: a value used in two places is written in both."""
    import yaml

    class Plain(yaml.SafeDumper):  # type: ignore[misc]
        def ignore_aliases(self, _data: object) -> bool:
            return True

    def represent(dumper: Any, setting: ChartValue) -> Any:
        text = f"{setting.condition} ? .Values.{setting.key}" if setting.condition else f".Values.{setting.key}"
        return dumper.represent_scalar("!helm", text, style="'")

    Plain.add_representer(ChartValue, represent)
    return Plain


def _comment(text: str) -> str:
    return "".join(f"# {line}".rstrip() + "\n" for line in text.splitlines())
