"""`resx info`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resx.cli.command_lines import command_line
from resx.cli.completion import complete_thing
from resx.cli.flowing_text import print_text
from resx.cli.marks import show_next
from resx.cli.options.output import DetailOptions
from resx.cli.options.repository import DEFAULT_REPOSITORY, RepositoryPath

if TYPE_CHECKING:
    from rich.console import Console


def info(
    printing: DetailOptions,
    thing: Annotated[
        str,
        typer.Argument(
            help="A variant, a run's folder, a model of the repository, or an .onnx file.",
            autocompletion=complete_thing,
        ),
    ] = "",
    repository: RepositoryPath = DEFAULT_REPOSITORY,
    bibtex: Annotated[bool, typer.Option("--bibtex", metavar="", help="Print its papers as BibTeX instead.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", metavar="", help="Print the JSON schema of card.json instead.")
    ] = False,
) -> None:
    """Describe a variant, a run, a published model or an .onnx file: architecture, input, size, origin.

    Example: resx info resnet50
    """
    from resx.card.card import schema_text
    from resx.cli.views import version_card
    from resx.cli.views.network_facts import show_network
    from resx.cli.views.next_step import to_serve
    from resx.errors import UsageError
    from resx.repository.versions import Repository

    if schema:
        typer.echo(schema_text(), nl=False)
        return
    if not thing:
        raise UsageError("THING is missing: name a variant, a run's folder, a published model or an .onnx file")
    if bibtex:
        typer.echo(_bibtex(thing, repository), nl=False)
        return
    facts, out = _facts(thing, repository), printing.open()

    def show(console: Console) -> None:
        if facts["kind"] == "published model":
            published = Repository(repository)
            card = published.card(thing)
            versions = published.versions(thing)
            file = published.version_folder(thing) / card.model_file
            version_card.version(console, card, file, versions, verbose=out.verbose)
            show_next(console, to_serve(thing, published))
            return
        if facts["kind"] != "onnx file":
            show_network(console, thing, facts)
            show_next(console, command_line("export", thing))
            return
        for key, value in _flat(facts):
            if out.verbose or not key.startswith("operators."):
                print_text(console, f"{key:<28} {value}", indent=29)

    out.result(facts, show)


def _bibtex(thing: str, repository: Path) -> str:
    """Return the entries of the papers that a network, its stochastic depth and a run's recipe come from."""
    from resx.errors import UsageError
    from resx.repository.versions import Repository
    from resx.training.recipes import RECIPES
    from resx.training.runs.run_origin import read_origin
    from resx.zoo.catalog import VARIANTS, variant
    from resx.zoo.papers import HUANG_2016, papers_cited_in
    from resx.zoo.spec import SPEC_FILE

    recipe = ""
    if (Path(thing) / SPEC_FILE).is_file():
        origin = read_origin(Path(thing))
        spec, recipe = origin.spec, origin.training.recipe
    elif thing in (published := Repository(repository)).names():
        source = published.card(thing).source
        if source.spec is None:
            raise UsageError(f"--bibtex: {thing} comes from an .onnx file, which names no paper; name its variant")
        spec = source.spec
    else:
        spec = variant(thing).spec
    texts = [VARIANTS[spec.name].paper, VARIANTS[spec.name].published] if spec.name in VARIANTS else []
    texts += [HUANG_2016.citation] if spec.survival < 1 else []
    texts += [RECIPES[recipe].source] if recipe in RECIPES else []
    return "\n".join(paper.bibtex for paper in papers_cited_in(texts))


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
    raise UsageError(f"{thing!r}: no variant, run, .onnx file or model in {repository} has this name{near}")


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
    from resx.training.runs.run_metrics import read_metrics
    from resx.zoo.spec import SPEC_FILE, read_spec

    spec, epochs = read_spec(folder / SPEC_FILE), read_metrics(folder)
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
