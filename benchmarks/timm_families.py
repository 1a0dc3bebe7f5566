"""Export one small network of each of timm's convolutional families, with random weights, and print what came of each.

    python -m benchmarks.timm_families -o docs/timm.md               goes on where the page ends
    python -m benchmarks.timm_families --only 'regnet*,dla*' --within 300

Each is exported in fp16, in a process of its own: the pipeline compares its fp32 file with PyTorch first, then the fp16
file. Its preprocessing is compared with timm's own transform on two photographs. One in ten is served by the embedded
server, whose answer to a photograph is compared with PyTorch's. The page is written after each network; one that passed
there under the versions of today is left out, unless --again is given. Exit code 1 if one is refused.
"""

from __future__ import annotations

import argparse
import fnmatch
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from benchmarks.timm_family_page import (
    COLUMNS,
    FAMILIES,
    NONE,
    Row,
    is_of_today,
    read_rows,
    refused,
    summarize,
    write_page,
)

from resx.errors import ResxError
from resx.files.staging import write_atomic

if TYPE_CHECKING:
    from PIL import Image

    from resx.card.kinds import Precision
    from resx.export.sources.source import LoadedSource

_SMALL = 64
_SIZES: Mapping[str, int] = {
    "bat_resnext26ts": 128,
    "inception_resnet_v2": 160,
    "inception_v3": 96,
    "inception_v4": 160,
}
"""Pixels each way of those that cannot take so few."""
_PRELOADED = ["torch", "torch.onnx", "timm", "onnxruntime", "resx.export.pipeline", "resx.repository.publishing"]
_SERVED_BOUND = 2e-2
"""As a version's self-test holds fp16 to."""
_WIDTHS = (20, 27, 11, 7, 8, 8, 14, 8, 4)


def main() -> int:
    """Export what the page lacks; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="the page to go on with, and to write")
    parser.add_argument("--only", default="*", help="patterns of timm's names, with commas between them")
    parser.add_argument("--within", type=float, default=float("inf"), help="seconds after which none is begun")
    parser.add_argument("--serve-every", type=int, default=10, help="serve every N-th; 0: none")
    parser.add_argument("--again", action="store_true", help="those that passed, too")
    asked = parser.parse_args()
    begun, patterns = time.monotonic(), asked.only.split(",")
    page = asked.output.read_text() if asked.output and asked.output.is_file() else ""
    rows = read_rows(page) if is_of_today(page) else {}
    print(_line((*COLUMNS, "s")))
    for number, (family, name) in enumerate(FAMILIES.items(), 1):
        is_done = name in rows and not rows[name].is_refused and not asked.again
        if is_done or not any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
            continue
        if time.monotonic() - begun > asked.within:
            break
        is_served = asked.serve_every > 0 and number % asked.serve_every == 0
        started = time.monotonic()
        rows[name] = row = _examine_apart(family, name, is_served=is_served)
        print(_line((*astuple(row), f"{time.monotonic() - started:.0f}")), flush=True)
        if asked.output:
            write_atomic(asked.output, write_page(rows))
    print(summarize(rows.values()))
    return 1 if any(row.is_refused for row in rows.values()) else 0


def _line(cells: tuple[str, ...]) -> str:
    return " ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()


def _examine_apart(family: str, name: str, *, is_served: bool) -> Row:
    """Examine a network in a process of its own, which may die or grow."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(examine, family, name, is_served=is_served).result()
        except Exception as error:  # a fault of ours is a row too, and so is a process that was killed
            why = refused(f"{type(error).__name__}: {error}")
            return Row(family=family, name=name, pixels=NONE, fp32=why)


def examine(family: str, name: str, *, is_served: bool) -> Row:
    """Export a network, compare its files, its preprocessing and its server with timm and PyTorch."""
    from resx.export.sources.source import LoadedSource, load_source

    size, cells = _SIZES.get(name, _SMALL), dict[str, str]()
    try:
        source = load_source(f"timm:{name}", weights="none", seed=0, image_size=size)
        assert isinstance(source, LoadedSource)
        cells["parameters"] = f"{sum(values.numel() for values in source.model.parameters()) / 1e6:.1f} M"
        cells["preprocessing"] = _compare_pixels(source, name, size)
        cells |= _export(source, is_served=is_served)
    except ResxError as error:
        cells["fp32"] = refused(error)
    return Row(family=family, name=name, pixels=str(size), **cells)


def _export(source: LoadedSource, *, is_served: bool) -> dict[str, str]:
    """Return the cells of the export; where fp16 is refused, of fp32 alone."""
    from resx.export.options import ExportOptions
    from resx.repository.config_pbtxt import ServingOptions
    from resx.repository.publishing import export_into
    from resx.repository.versions import Repository

    def export(precision: Precision) -> dict[str, str]:
        with tempfile.TemporaryDirectory(prefix="resx-") as folder:
            repository = Repository(Path(folder) / "model_repository")
            options = ExportOptions(precision=precision, max_batch_size=2)
            card, _ = export_into(
                repository, source, options, ServingOptions(), name=source.name, command="benchmarks.timm_families"
            )
            shares = [f"{step.max_abs / step.scale:.1e}" for step in card.steps]
            cells = dict(zip(("fp32", "fp16"), shares, strict=precision == "fp16"))
            return cells | ({"served": _serve(repository, source)} if is_served else {})

    try:
        return export("fp16")
    except ResxError as error:
        return {"fp16": refused(error)} | export("fp32")


def _compare_pixels(source: LoadedSource, name: str, size: int) -> str:
    """Return the largest difference of our pixels from timm's, in gray levels, at its own size and at ours."""
    import timm
    from timm.data import create_transform, resolve_data_config

    from resx.card.signature import signature_of
    from resx.export.sources.timm_preprocessing import image_format

    config, largest = timm.get_pretrained_cfg(name).to_dict(), 0.0
    for image_size in (None, size):
        spec = source.description.network.model_copy(
            update=image_format(f"timm:{name}", config, image_size).model_dump()
        )
        theirs = create_transform(**resolve_data_config({"img_size": image_size}, pretrained_cfg=config))
        signature = signature_of(spec, "float32")
        for image in _photographs():
            ours = signature.as_input(signature.take(image, "")[None])[0]
            difference = np.abs(ours - theirs(image).numpy()) * np.array(spec.std).reshape(3, 1, 1) * 255
            largest = max(largest, float(difference.max()))
    return f"{largest:.2f}" if largest <= 1 else refused(f"{largest:.0f} gray levels")


def _serve(repository: object, source: LoadedSource) -> str:
    """Return how far a server's answer to a photograph is from PyTorch's, as a share of the scale."""
    from resx.repository.versions import Repository
    from resx.serving.client.client import TritonClient
    from resx.serving.client.image_queries import model_input
    from resx.serving.embedded.server_ports import Ports
    from resx.serving.supervisor.detaching import serve_detached, stop

    assert isinstance(repository, Repository)
    state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
    try:
        with TritonClient(state.address("grpc")) as client:
            interface = client.interface(source.name)
            images = model_input(_photographs()[:1], interface)
            answer = client.infer(source.name, interface, images).logits
    finally:
        stop(repository)
    expected = source.logits(images)
    difference = float(np.abs(answer - expected).max() / np.abs(expected).max())
    return f"{difference:.1e}" if difference <= _SERVED_BOUND else refused(f"{difference:.1e} from PyTorch's answer")


def _photographs() -> list[Image.Image]:
    from PIL import Image
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(image) for image in load_sample_images().images]


if __name__ == "__main__":
    sys.exit(main())
