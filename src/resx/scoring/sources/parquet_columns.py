"""Which column of a Parquet file holds the images, and what a row's cell in it is.

A column of bytes of any kind: of open or fixed size, large, a view, a dictionary of these; at any depth in structures,
named `a.b.c`. A structure with a field `bytes` is named itself, as Hugging Face's `datasets` write images; its field
`path`, if it has one, names the file of an image whose bytes are null.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resx.errors import UsageError
from resx.scoring.sources.uri import without_secrets

if TYPE_CHECKING:
    import pyarrow as pa

PATH, BYTES = "path", "bytes"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageColumn:
    """A column of images."""

    name: str
    """As the user says it."""
    parts: tuple[str, ...]
    """The names from the top down to the bytes."""
    has_path: bool
    """Whether a field `path` lies beside the bytes."""
    rank: int
    """Of those that may be meant the ones of the lowest rank are."""

    @property
    def leaf(self) -> str:
        """As Parquet calls the column of bytes."""
        return ".".join(self.parts)

    @property
    def path_leaf(self) -> str:
        """As Parquet calls the column of paths beside it."""
        return ".".join((*self.parts[:-1], PATH))


def image_column(schema: pa.Schema, file: str, wanted: str) -> ImageColumn:
    """Return the column that is meant; with no name the only one.

    Raises:
        UsageError: there is none, there are several, or it holds no bytes.
    """
    file = without_secrets(file)
    found = [one for field in schema for one in _columns(field, ())]
    if wanted:
        for one in found:
            if wanted in (one.name, one.leaf):
                return one
        raise UsageError(f"{file}: {_why_not(schema, wanted, found)}")
    if not found:
        lists = [name for field in schema if (name := _in_list(field, ()))]
        if lists:
            raise UsageError(f"{file}: {_of_list(lists[0])}")
        columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UsageError(f"{file}: no column of bytes among {columns}; store the encoded images in one")
    likely = [one for one in found if one.rank == min(one.rank for one in found)]
    if len(likely) > 1:
        raise UsageError(f"{file}: bytes in {', '.join(one.name for one in likely)}; choose one with --column")
    return likely[0]


def is_text(kind: pa.DataType) -> bool:
    """Say whether a column's cells are text."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is(kind, "is_string_view"))


def field_of(column: pa.Array, names: tuple[str, ...]) -> pa.Array:
    """Return the column that lies in structures under these names."""
    for name in names:
        column = column.field(name)
    return column


def scalar_of(column: pa.Array, place: int) -> pa.Scalar:
    """Return a cell; of a dictionary its value."""
    import pyarrow as pa

    scalar = column[place]
    return scalar.value if isinstance(scalar, pa.DictionaryScalar) and scalar.is_valid else scalar


def _columns(field: pa.Field, above: tuple[str, ...], siblings: Sequence[pa.Field] = ()) -> Iterator[ImageColumn]:
    import pyarrow as pa

    parts = (*above, field.name)
    if pa.types.is_struct(field.type):
        for inner in field.type:
            yield from _columns(inner, parts, list(field.type))
        return
    rank = _rank(field.type)
    if rank is not None:
        named = parts[:-1] if above and field.name == BYTES else parts
        yield ImageColumn(
            name=".".join(named),
            parts=parts,
            rank=rank if len(named) == 1 else max(rank, 1),
            has_path=named != parts and any(one.name == PATH and is_text(one.type) for one in siblings),
        )


def _rank(kind: pa.DataType) -> int | None:
    """Return how likely a type is one of images: 0 the most, None not at all. Fixed sizes are mostly identifiers."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        inner = _rank(kind.value_type)
        return None if inner is None else max(1, inner)
    if pa.types.is_fixed_size_binary(kind):
        return 2
    return 0 if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or _is(kind, "is_binary_view") else None


def _is(kind: pa.DataType, check: str) -> bool:
    """Ask for a type that older versions of pyarrow do not have."""
    import pyarrow as pa

    asked: Any = getattr(pa.types, check, None)
    return asked is not None and bool(asked(kind))


def _why_not(schema: pa.Schema, wanted: str, found: list[ImageColumn]) -> str:
    import pyarrow as pa

    kind: Any = pa.struct(list(schema))
    for name in [wanted] if wanted in schema.names else wanted.split("."):
        if pa.types.is_struct(kind) and kind.get_field_index(name) >= 0:
            kind = kind.field(name).type
        elif _is_list(kind):
            break
        else:
            kind = None
            break
    there = ", ".join(one.name for one in found) or "none"
    if kind is None:
        return f"no column {wanted!r} of bytes; available: {there}"
    return _of_list(wanted) if _is_list(kind) else f"column {wanted!r} holds {kind}, not bytes; available: {there}"


def _of_list(name: str) -> str:
    return f"column {name!r} holds lists, but a row must be one image; write one row per image (pandas: explode)"


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    checks = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view", "is_map")
    return any(_is(kind, check) for check in checks) and not pa.types.is_dictionary(kind)


def _in_list(field: pa.Field, above: tuple[str, ...]) -> str:
    """Return the name of a list that has bytes in it; empty if there is none."""
    import pyarrow as pa

    parts = (*above, field.name)
    if pa.types.is_struct(field.type):
        return next((name for inner in field.type if (name := _in_list(inner, parts))), "")
    if not _is_list(field.type) or pa.types.is_map(field.type):
        return ""
    inside = pa.field("x", field.type.value_type)
    return ".".join(parts) if list(_columns(inside, ())) or _in_list(inside, ()) else ""
