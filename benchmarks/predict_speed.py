"""Bulk scoring against plain inference of the same file in process, and its memory over many images.

    python benchmarks/predict_speed.py [--model resnet50] [--images 960] [--rounds 3] [--many 100000]

Speed: `resx predict` over JPEGs of 500 x 375 against onnxruntime on batches that are decoded and prepared already, with
the same number of threads, each in a process of its own, in turns; the ratio is taken round by round. What `predict`
does beside inference (reading, decoding, resizing, writing rows) needs the same cores, so 1 is out of reach.

Memory: `resx predict resnet20` over a list of small JPEGs; its resident memory while the first tenth of the rows is
scored, against the last tenth's. Exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from resx.export.options import ExportOptions
from resx.export.sources.source import load_source
from resx.machine import usable_cores
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Repository

SPEED_BAR, MEMORY_BAR = 0.9, 1.1
_BATCH = 8
_IN_PROCESS = """
import sys, time
from pathlib import Path
import numpy as np
from resx.runtimes.onnxruntime_model import OnnxRuntimeModel
path, size, images, batch = sys.argv[1], *map(int, sys.argv[2:])
model = OnnxRuntimeModel(Path(path))
data = np.random.default_rng(0).integers(0, 256, (batch, 3, size, size), dtype=np.uint8)
model(data)
begun = time.perf_counter()
for _ in range(images // batch):
    model(data)
print(images // batch * batch / (time.perf_counter() - begun))
"""


def main() -> int:
    """Measure, print, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description="Speed and memory of `resx predict`.")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--images", type=int, default=960)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--many", type=int, default=100_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="resx-predict-") as name:
        folder = Path(name)
        repository = Repository(folder / "model_repository")
        for model in (options.model, "resnet20"):
            source = load_source(model, weights="none", seed=0)
            export = ExportOptions(max_batch_size=_BATCH)
            export_into(repository, source, export, ServingOptions(), name=model, command="predict_speed")
        fast = _speed(repository, folder, options.model, options.images, options.rounds)
        flat = _memory(repository, folder, options.many)
    return 0 if fast and flat else 1


def _speed(repository: Repository, folder: Path, model: str, images: int, rounds: int) -> bool:
    photos = folder / "photos"
    _write_photos(photos, images, width=500, height=375)
    print(f"{'round':>5} {'in process/s':>13} {'predict/s':>10} {'ratio':>6}")
    ratios = []
    for number in range(1, rounds + 1):
        if number % 2:
            plain, scored = _plain(repository, model, images), _scored(repository, folder, model, photos)
        else:
            scored, plain = _scored(repository, folder, model, photos), _plain(repository, model, images)
        ratios.append(scored / plain)
        print(f"{number:>5} {plain:>13.1f} {scored:>10.1f} {ratios[-1]:>6.3f}", flush=True)
    median = statistics.median(ratios)
    print(
        f"{model}: predict / in process (batch {_BATCH}), {images} JPEGs, {usable_cores()} cores: median {median:.3f}, "
        f"{min(ratios):.3f} to {max(ratios):.3f}; bar {SPEED_BAR} {'holds' if median >= SPEED_BAR else 'MISSED'}"
    )
    return median >= SPEED_BAR


def _memory(repository: Repository, folder: Path, rows: int) -> bool:
    photos = folder / "small"
    _write_photos(photos, 100, width=40, height=40)
    paths = [str(path) for path in sorted(photos.iterdir())]
    listed = folder / "many.txt"
    listed.write_text("".join(f"{paths[number % len(paths)]}\n" for number in range(rows)))
    out = folder / "many.parquet"
    begun, seen = time.perf_counter(), list[tuple[float, float]]()
    with subprocess.Popen(_command(repository, "resnet20", listed, out), stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            seen.append((time.perf_counter() - begun, _resident_mib(process.pid)))
            time.sleep(0.2)
        assert process.stdout is not None
        done = json.loads(process.stdout.read())
    took = seen[-1][0]
    first = max(mib for at, mib in seen if at <= 0.1 * took + 2)
    last = max(mib for at, mib in seen if at >= 0.9 * took)
    flat = last <= MEMORY_BAR * first and done["scored_rows"] == rows
    print(
        f"resnet20: {done['scored_rows']} rows at {done['images_per_s']:.0f}/s; resident {first:.0f} MiB in the first "
        f"tenth, {last:.0f} MiB in the last: {last / first:.2f}; bar {MEMORY_BAR} {'holds' if flat else 'MISSED'}"
    )
    return flat


def _write_photos(folder: Path, count: int, *, width: int, height: int) -> None:
    """Write smooth noise: as large in bytes as a photograph of that size."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image.save(folder / f"{number:05}.jpg", quality=90)


def _plain(repository: Repository, model: str, images: int) -> float:
    card = repository.card(model)
    assert card.source.spec is not None
    file, size = repository.version_folder(model) / card.model_file, card.source.spec.image_size
    command = [sys.executable, "-c", _IN_PROCESS, str(file), str(size), str(images), str(_BATCH)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _scored(repository: Repository, folder: Path, model: str, photos: Path) -> float:
    command = _command(repository, model, photos, folder / "scored.parquet")
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(json.loads(done.stdout)["images_per_s"])


def _command(repository: Repository, model: str, source: Path, out: Path) -> list[str]:
    asked = ["predict", model, str(source), "-o", str(out), "--repository", str(repository.root)]
    return [sys.executable, "-m", "resx", *asked, "--overwrite", "--json", "--quiet"]


def _resident_mib(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(lines[0].split()[1]) / 1024 if lines else 0.0


if __name__ == "__main__":
    sys.exit(main())
