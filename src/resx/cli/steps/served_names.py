"""What `resx serve NAME` names: a model of the repository, or a variant or a run, which is exported first."""

from __future__ import annotations

import hashlib
import os
import shlex
import sys
from pathlib import Path

from resx.cli.options.engine import FormatOptions
from resx.cli.options.source import SourceOptions
from resx.cli.output import Output
from resx.cli.steps import export_formats
from resx.errors import UsageError, nearest
from resx.names import checked_name, is_model_name
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.versions import Repository
from resx.zoo.catalog import VARIANTS, kind_of


def find_served_name(repository: Repository, text: str) -> tuple[str, str]:
    """Return the name of the model that is meant, and the source to export under it first; empty if it is there.

    A run is there if the newest version of its name has the run's weights.

    Raises:
        UsageError: it is none of the three.
    """
    if text in repository.names() or (is_model_name(text) and repository.is_endpoint(text)):
        repository.version_folder(text)
        return text, ""
    kind = _kind_of(repository, text)
    if kind == "variant":
        return text, text
    if kind != "run":
        raise UsageError(f"{text}: export it first: `resx export {shlex.quote(text)}`, then serve it by its name")
    name = checked_name(Path(text).resolve().name)
    newest = repository.newest(name)
    is_there = (
        newest is not None
        and repository.has_card(name, newest.version)
        and repository.card(name, newest.version).source.weights_sha256 == _weights_sha256(Path(text))
    )
    return name, "" if is_there else text


def export_missing(out: Output, repository: Repository, name: str, source: str) -> None:
    """Export a variant or a run as `resx export` does if nothing else is asked of it, with an image endpoint if it can.

    Raises:
        ResxError: as `resx export`.
    """
    job = _usual_job(repository, name, source)
    export_formats.require_free_target(job.format, repository, name)
    made = export_formats.reuse(job)
    if made is None:
        with out.steps() as step:
            step("load PyTorch")
            made = export_formats.make(job, step)
    out.note(f"{source} was not in {repository.root}; exported as {name} version {made.version}")


def begin_anew() -> None:
    """Run this command again in place of this process, which would keep PyTorch in memory while the server runs."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "resx", *sys.argv[1:]])  # noqa: S606


def _kind_of(repository: Repository, text: str) -> str:
    try:
        return kind_of(text)
    except UsageError:
        if not is_model_name(text) or Path(text).exists():
            raise
    near = nearest(text, [*repository.names(), *VARIANTS])
    raise UsageError(f"{text}: no model in {repository.root}, no variant and no run's folder{near}")


def _weights_sha256(run: Path) -> str:
    """Return the hash by which a card names a run's weights, without PyTorch; empty if they cannot be read.

    It is that of `export.sources.source.weights_sha256`, and a test compares.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from resx.training.runs.run_origin import WEIGHTS

    digest = hashlib.sha256()
    try:
        weights = load_file(run / WEIGHTS)
    except (OSError, SafetensorError):  # whoever exports them says what is wrong
        return ""
    for name, array in sorted(weights.items()):
        digest.update(f"{name} torch.{array.dtype} {list(array.shape)}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _usual_job(repository: Repository, name: str, source: str) -> export_formats.ExportJob:
    from resx.export.combinations import calibration_methods, usual_runtime
    from resx.export.request import ExportRequest
    from resx.runtimes.onnxruntime_model import default_target
    from resx.serving.embedded.installation.python_stub import missing_stub

    has_endpoint = missing_stub() is None
    target = default_target()
    runtime = usual_runtime("fp32", target)
    command = ["resx", "export", source, *(["--image-endpoint"] if has_endpoint else [])]
    return export_formats.ExportJob(
        request=ExportRequest(
            source=SourceOptions().arguments(source, seed=0),
            target=target,
            runtime=runtime,
            calibrate_method=calibration_methods(runtime)[0],
        ),
        format=FormatOptions(),
        serving=ServingOptions(image_endpoint=has_endpoint),
        repository=repository,
        name=name,
        command=shlex.join([*command, f"--repository={repository.root}"]),
    )
