"""Objects of Kubernetes as plain values: patched as Kustomize does, and written as YAML with a comment above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Fields: TypeAlias = dict[str, Any]
_LIST_KEYS = ("mountPath", "name")
"""What Kubernetes joins lists by: volume mounts, and containers, variables and volumes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """An object, and what a reader of its YAML is told first."""

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
        """The file that it is kept in: its kind and, behind the model's name, what tells two of a kind apart."""
        return f"{self.kind.lower()}{'-headless' if self.name.endswith('-headless') else ''}.yaml"


def patched(manifests: Sequence[Manifest], patches: Sequence[Fields]) -> list[Manifest]:
    """Apply each patch to the object of its kind and name, as Kustomize's strategic merge does."""
    found = list(manifests)
    for patch in patches:
        wanted = (patch["kind"], patch["metadata"]["name"])
        (index,) = (index for index, one in enumerate(found) if (one.kind, one.name) == wanted)
        found[index] = Manifest(fields=merged(found[index].fields, patch), comment=found[index].comment)
    return found


def merged(fields: Mapping[str, Any], patch: Mapping[str, Any]) -> Fields:
    """Return `fields` with the patch: mappings joined, named list entries joined by name, None deletes."""
    result = dict(fields)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        elif isinstance(value, list) and (by := _key_of(value)) and isinstance(result.get(key), list):
            result[key] = _merged_list(result[key], value, by)
        else:
            result[key] = value
    return result


def _key_of(entries: list[Any]) -> str:
    return next((key for key in _LIST_KEYS if all(isinstance(entry, dict) and key in entry for entry in entries)), "")


def _merged_list(entries: list[Fields], patches: list[Fields], by: str) -> list[Fields]:
    changed = {patch[by]: patch for patch in patches}
    kept = [merged(entry, changed.pop(entry.get(by), {})) for entry in entries]
    return kept + list(changed.values())


def text_of(manifests: Sequence[Manifest]) -> str:
    """Return the objects as one multi-document YAML text."""
    return "---\n".join(_comment(one.comment) + dump(one.fields) for one in manifests)


def dump(fields: Mapping[str, Any]) -> str:
    """Return a value as YAML, its keys in their order."""
    import yaml

    return yaml.dump(fields, Dumper=_plain_dumper(), sort_keys=False, width=160, allow_unicode=True)


def _plain_dumper() -> Any:
    """Return a writer that names nothing twice: a value used in two places is written in both."""
    import yaml

    class Plain(yaml.SafeDumper):  # type: ignore[misc]
        def ignore_aliases(self, _data: object) -> bool:
            return True

    return Plain


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" if line else "#\n" for line in text.splitlines())
