"""More than a third of resnet110's blocks less, with stochastic depth and with constant depth, on the digits.

    python benchmarks/shrink_table.py                                  trains first: half an hour on two cores
    python benchmarks/shrink_table.py --model resnet20 --epochs 2 --image-size 8 --rounds 20 --randoms 1

Both networks are trained by one budget (a run below --runs that is there already is resumed, so this can be
interrupted), then lose 37 % of their blocks (20 of 54): those that `resx shrink` finds, and random ones for comparison,
batch norms fitted anew in both. Accuracy is held-out. Latency is that of the embedded Triton: each network and its
smaller one are served together and asked for one image in turn, so that whatever else the machine does slows both;
a ratio is the smaller's time over the whole's of one round, and the median of the rounds is printed with the quartiles.

Ends with 1 unless the stochastic-depth network loses at most 1 point and its latency falls by 20 %.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from resx.analysis.shrink import choice, search
from resx.analysis.shrink.search import SearchOptions, ShrunkenNetwork, Sized
from resx.card.origin import Source
from resx.data.dataset import DataSet
from resx.data.loading import load_data
from resx.data.photographs import RealImages
from resx.errors import ResxError
from resx.export.graph.batchnorm_fusion import fuse
from resx.export.options import ExportOptions
from resx.export.sources.source import LoadedSource, weights_sha256
from resx.repository.config_pbtxt import ServingOptions
from resx.repository.publishing import export_into
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.embedded.server_ports import Ports
from resx.serving.supervisor.detaching import serve_detached, stop
from resx.training.loop import TrainingRun, train
from resx.training.recipes import configure
from resx.training.runs import checkpoint
from resx.zoo.catalog import variant

LARGEST_LOSS_POINTS, LARGEST_RATIO = 1.0, 0.80
_NUM_IMAGES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What became of one run."""

    title: str
    whole: ShrunkenNetwork
    member: ShrunkenNetwork
    random: tuple[float, ...]
    """Accuracies where random blocks went, of as many searches."""
    ratios: tuple[float, ...]
    """Served latency of the smaller network over the whole one's, round by round."""

    @property
    def points_lost(self) -> float:
        """Of accuracy."""
        return 100 * (self.whole.accuracy - self.member.accuracy)

    @property
    def ratio(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.ratios)


def main() -> int:
    """Train what is missing, shrink, serve, print, and say whether the bars hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet110")
    parser.add_argument("--survival", type=float, default=0.5, help="p_L of the stochastic-depth run")
    parser.add_argument("--share", type=float, default=0.37, help="of the blocks, to go")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--randoms", type=int, default=5, help="random choices to compare with")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--runs", type=Path, default=Path("runs/shrink-table"))
    options = parser.parse_args()

    try:
        data = load_data("digits", image_size=options.image_size)
        rows = [measure(survival, data, options) for survival in (options.survival, 1.0)]
    except ResxError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(table(rows, options))
    lost, ratio = rows[0].points_lost, rows[0].ratio
    met = lost <= LARGEST_LOSS_POINTS + 1e-9 and ratio <= LARGEST_RATIO
    print(
        f"{rows[0].title}: {lost:.2f} points lost (bar {LARGEST_LOSS_POINTS:g}), latency {ratio:.3f} of the whole's "
        f"(bar {LARGEST_RATIO:.2f}): {'met' if met else 'MISSED'}"
    )
    return 0 if met else 1


def measure(survival: float, data: DataSet, options: argparse.Namespace) -> Row:
    """Return what becomes of one run."""
    folder = options.runs / f"{options.model}-survival{survival:g}-{options.image_size}px-seed{options.seed}"
    spec = variant(options.model).spec.with_changes(
        classes=len(data.labels), labels=data.labels, image=data.image, survival=survival
    )
    changes = {"epochs": options.epochs, "batch_size": options.batch_size, "seed": options.seed}
    train(
        TrainingRun(
            spec=spec,
            data=data,
            config=configure("digits", "digits", changes),
            folder=folder,
            resume=checkpoint.is_run(folder),
        )
    )
    model, spec = checkpoint.load_run(folder)
    drop = math.ceil(options.share * len(spec.kept_blocks))
    search.require_removable(spec, drop)

    def smaller(search: SearchOptions) -> Sized:
        return choice.after_drops(search.sizes(model, spec, data, search, prepare), drop)

    whole = search.measure(model, spec, data, prepare)
    found = smaller(SearchOptions(seed=options.seed))
    randoms = [smaller(SearchOptions(seed=seed, at_random=True)).member.accuracy for seed in range(options.randoms)]
    return Row(
        title=options.model if survival == 1 else f"{options.model}, p_L = {survival:g}",
        whole=whole.member,
        member=found.member,
        random=tuple(randoms),
        ratios=tuple(served_ratios(whole, found, data, options.rounds)),
    )


def prepare(part: nn.Module) -> nn.Module:
    """Return the form of a step that the search evaluates."""
    return fuse(part, target="gpu")


def served_ratios(whole: Sized, smaller: Sized, data: DataSet, rounds: int) -> list[float]:
    """Serve both networks and return the ratio of their latencies, round by round, in turn."""
    images = data.held_out.images[:_NUM_IMAGES]
    with tempfile.TemporaryDirectory() as folder:
        repository = Repository(Path(folder) / "model_repository")
        for name, sized in (("whole", whole), ("smaller", smaller)):
            source = LoadedSource(
                name=name,
                model=sized.model,
                description=Source(
                    kind="run", spec=sized.spec, weights=name, weights_sha256=weights_sha256(sized.model)
                ),
                real=RealImages(images=images, origin="held-out digits"),
            )
            export_into(repository, source, ExportOptions(), ServingOptions(), name=name, command="shrink_table.py")
        state = serve_detached(repository, Ports(http=0, grpc=0, metrics=0))
        try:
            with TritonClient(state.address("grpc")) as client:
                interfaces = {name: client.interface(name) for name in ("whole", "smaller")}
                ratios = []
                for number in range(-10, rounds):  # the first ten warm the server up
                    image = images[number % len(images)][None]
                    times = {}
                    # Each is asked first in every second round.
                    for name in ("whole", "smaller") if number % 2 else ("smaller", "whole"):
                        started = time.perf_counter()
                        client.infer(name, interfaces[name], image)
                        times[name] = time.perf_counter() - started
                    if number >= 0:
                        ratios.append(times["smaller"] / times["whole"])
                return ratios
        finally:
            stop(repository)


def table(rows: list[Row], options: argparse.Namespace) -> str:
    """Return the table as Markdown."""
    lines = [
        f"{options.epochs} epochs, batch {options.batch_size}, {options.image_size} pixels, seed {options.seed}; "
        f"PyTorch {torch.__version__}; latency of {options.rounds} interleaved rounds, one image each",
        "",
        "| run | blocks | whole | searched | random, mean (lowest to highest) | served latency, quartiles |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        random = [100 * accuracy for accuracy in row.random]
        spread = f"{statistics.mean(random):.2f} % ({min(random):.2f} to {max(random):.2f})" if random else "-"
        low, middle, high = statistics.quantiles(row.ratios, n=4)
        lines.append(
            f"| {row.title} | {row.whole.num_blocks} to {row.member.num_blocks} | {row.whole.accuracy:.2%} "
            f"| {row.member.accuracy:.2%} | {spread} | {low:.3f} / {middle:.3f} / {high:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
