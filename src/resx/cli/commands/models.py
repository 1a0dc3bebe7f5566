"""`resx models` and `resx info`: what there is, and what a thing is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.options.shared import Json, Quiet, RepositoryPath
from resx.cli.output import Output, table
from resx.files.reading import MAX_RESULT_BYTES, read_text

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("models")(list_variants)
    app.command("info")(info)


def list_variants(json: Json = False, quiet: Quiet = False) -> None:
    """List every variant: parameters, multiply-adds, input, published figure, paper.

    Example: resx models
    """
    from resx.zoo.catalog import VARIANTS

    entries = [
        {
            "name": name,
            "family": variant.family,
            "parameters": variant.num_parameters,
            "gmacs": variant.gmacs,
            "image_size": variant.spec.image_size,
            "classes": variant.spec.classes,
            "top1_percent": variant.top1_percent,
            "error_percent": variant.error_percent,
            "paper": variant.paper,
        }
        for name, variant in VARIANTS.items()
    ]
    rows = [
        [
            name,
            variant.family,
            f"{variant.num_parameters / 1e6:.2f} M",
            f"{variant.gmacs:.2f}",
            f"{variant.spec.image_size} px",
            variant.published,
            variant.paper,
        ]
        for name, variant in VARIANTS.items()
    ]
    columns = ["name", "family", "parameters", "GMACs", "input", "published", "paper"]
    Output(as_json=json, quiet=quiet).result(
        {"models": entries}, lambda console: console.print(table("", columns, rows, left=2))
    )


def info(
    thing: Annotated[
        str, typer.Argument(help="A variant, a run's folder, a model of the repository, or a .onnx file.")
    ] = "",
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of card.json instead.")] = False,
    repository: RepositoryPath = Path("model_repository"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a variant, run, published model or .onnx file is.

    Example: resx info resnet50
    """
    from resx.card.card import schema_text
    from resx.cli.views import version_card
    from resx.errors import UsageError
    from resx.repository.versions import Repository

    if schema:
        typer.echo(schema_text(), nl=False)
        return
    if not thing:
        raise UsageError("THING is missing: name a variant, a run's folder, a published model or a .onnx file")
    facts = _facts(thing, repository)

    def show(console: Console) -> None:
        if facts["kind"] == "published model":
            published = Repository(repository)
            card = published.card(thing)
            versions = published.versions(thing)
            version_card.version(console, card, published.version_folder(thing) / card.model_file, versions)
            return
        for key, value in _flat(facts):
            console.print(f"{key:<28} {value}", markup=False, soft_wrap=True)

    Output(as_json=json, quiet=quiet).result(facts, show)


def _facts(thing: str, repository: Path) -> dict[str, Any]:
    from resx.errors import UsageError, nearest
    from resx.names import checked_name
    from resx.repository.versions import Repository
    from resx.zoo.catalog import VARIANTS, names_onnx_file
    from resx.zoo.spec import SPEC_FILE

    path = Path(thing)
    if (path / SPEC_FILE).is_file():
        return _run_facts(path)
    if names_onnx_file(thing):
        return _onnx_facts(path)
    published = Repository(repository)
    if thing in published.names() or published.is_endpoint(thing):
        return _published_facts(published, thing)
    if thing in VARIANTS:
        return _variant_facts(thing)
    checked_name(thing)
    near = nearest(thing, [*VARIANTS, *published.names()])
    raise UsageError(f"{thing!r}: no variant, run, model of {repository} or .onnx file{near}")


def _variant_facts(name: str) -> dict[str, Any]:
    from resx.zoo.catalog import variant

    found = variant(name)
    return {
        "kind": "variant",
        "family": found.family,
        "parameters": found.num_parameters,
        "gmacs": found.gmacs,
        "published": found.published,
        "paper": found.paper,
        "spec": found.spec.model_dump(mode="json"),
    }


def _run_facts(folder: Path) -> dict[str, Any]:
    import json

    from resx.errors import UsageError
    from resx.zoo.spec import SPEC_FILE, read_spec

    spec = read_spec(folder / SPEC_FILE)
    metrics = folder / "metrics.jsonl"
    try:
        lines = read_text(metrics, MAX_RESULT_BYTES).splitlines() if metrics.is_file() else []
        epochs = [dict(json.loads(line)) for line in lines]
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"{metrics}: a line of it is not what training writes; copy the run again") from error
    return {
        "kind": "run",
        "epochs": len(epochs),
        "last": epochs[-1] if epochs else {},
        "spec": spec.model_dump(mode="json"),
    }


def _published_facts(repository: Any, name: str) -> dict[str, Any]:
    versions = repository.versions(name)
    card = repository.card(name).model_dump(mode="json")
    card["canary"] = {"num_images": card["canary"]["num_images"], "tolerance": card["canary"]["tolerance"]}
    return {"kind": "published model", "versions": versions, "newest": versions[-1], "card": card}


def _onnx_facts(path: Path) -> dict[str, Any]:
    from resx.runtimes.onnx_reader import describe_file

    return {"kind": "onnx file"} | describe_file(path)


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Turn nested facts into `a.b` keys; long lists are counted."""
    rows: list[tuple[str, str]] = []
    for key, value in facts.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for index, entry in enumerate(value):
                rows += _flat(entry, f"{prefix}{key}.{index}.")
        elif isinstance(value, list) and len(value) > 12:
            rows.append((f"{prefix}{key}", f"{value[0]}, ... ({len(value)})"))
        elif value is not None:
            rows.append((f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows
