"""The part of `resx export` that differs by format: ONNX, a TensorRT plan, an engine of TensorRT for RTX."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from resx.cli.views.version_card import accelerated
from resx.errors import UsageError
from resx.files.own_folders import make_cache_folder, require_own_cache
from resx.names import checked_name

if TYPE_CHECKING:
    from resx.card.card import Card
    from resx.export.options import ExportOptions
    from resx.export.reference import Exportable
    from resx.export.request import ExportRequest
    from resx.export.tensorrt.builder import EngineOptions
    from resx.repository.config_pbtxt import ServingOptions
    from resx.repository.versions import Repository

Format: TypeAlias = Literal["onnx", "tensorrt", "tensorrt-rtx"]
FORMATS: tuple[Format, ...] = ("onnx", "tensorrt", "tensorrt-rtx")
STANDARD_LEVEL = 3
ENGINES = Path("engines")
_SHOWN = 3
"""Layers that are named; the card has all."""

_PANEL = "TensorRT"
AcceleratorName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--accelerator",
        metavar="NAME",
        rich_help_panel=_PANEL,
        help="onnx: tensorrt has TensorRT, inside the server's onnxruntime, compute the file on the GPU.",
    ),
]
ComputeCapability: TypeAlias = Annotated[
    str,
    typer.Option(
        help="tensorrt-rtx: GPUs to build for, as 8.6,8.9. Default: all that an engine is portable to.",
        rich_help_panel=_PANEL,
    ),
]
BatchMin: TypeAlias = Annotated[int, typer.Option(min=0, help="Smallest batch. Default: 1.", rich_help_panel=_PANEL)]
BatchOpt: TypeAlias = Annotated[
    int, typer.Option(min=0, help="Batch that kernels are chosen for. Default: the largest.", rich_help_panel=_PANEL)
]
BatchMax: TypeAlias = Annotated[
    int, typer.Option(min=0, help="Largest batch. Default: --max-batch.", rich_help_panel=_PANEL)
]
WorkspaceMib: TypeAlias = Annotated[
    int, typer.Option(min=0, help="Scratch memory in MiB; 0: no bound.", rich_help_panel=_PANEL)
]
TimingCache: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        help="tensorrt: where measurements are kept; none keeps none. Default: the cache folder.",
        rich_help_panel=_PANEL,
    ),
]
Tf32: TypeAlias = Annotated[
    bool, typer.Option("--tf32/--no-tf32", help="Let fp32 convolutions round their inputs.", rich_help_panel=_PANEL)
]
BuilderLevel: TypeAlias = Annotated[
    int, typer.Option(min=0, max=5, help="0 builds fastest, 5 searches longest.", rich_help_panel=_PANEL)
]
EmitScript: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="tensorrt: write the script that builds in NVIDIA's container, instead.", rich_help_panel=_PANEL),
]
GivenPlan: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--plan", help="tensorrt: verify and publish this plan, built elsewhere, instead.", rich_help_panel=_PANEL
    ),
]
Publish: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--publish",
        rich_help_panel=_PANEL,
        help="tensorrt-rtx: publish in the model repository, for `resx serve`, not in a folder of its own.",
    ),
]
OutputFolder: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        rich_help_panel=_PANEL,
        help="tensorrt-rtx: the engine's folder. Default: engines/NAME. For an .onnx file otherwise: as --output-name.",
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineFlags:
    """What was typed; 0, an empty string and None stand for what was left out."""

    file_format: Format
    compute_capability: str = ""
    batch_min: int = 0
    batch_opt: int = 0
    batch_max: int = 0
    max_batch: int
    workspace_mib: int = 0
    timing_cache: str = ""
    tf32: bool = False
    builder_level: int = STANDARD_LEVEL
    emit_script: Path | None = None
    output: Path | None = None
    plan: Path | None = None
    publish: bool = False
    accelerator: str = ""
    target: str = ""
    """That was typed."""

    @property
    def largest_batch(self) -> int:
        """The largest batch that is exported for."""
        return self.batch_max or self.max_batch

    def require_fitting(self) -> None:
        """Check that each option that was given means something for the format.

        Raises:
            UsageError: one does not, or its value is out of range.
        """
        if self.accelerator and self.file_format != "onnx":
            raise UsageError(
                f"--accelerator {self.accelerator}: --format {self.file_format} makes an engine already; leave one of "
                "the two out"
            )
        if self.accelerator and self.target == "cpu":
            raise UsageError(
                f"--accelerator {self.accelerator}: computes on a GPU, and --target cpu makes a file for the CPU; "
                "leave one of the two out"
            )
        without = {
            "onnx": {field.name for field in fields(self)} - {"file_format", "max_batch", "accelerator", "target"},
            "tensorrt": {"compute_capability", "output", "publish"},
            "tensorrt-rtx": {"timing_cache", "emit_script", "plan"},
        }[self.file_format]
        given = [f for f in fields(self) if f.name in without and getattr(self, f.name) != f.default]
        if given:
            option = "--" + given[0].name.replace("_", "-")
            others = " or ".join(name for name in FORMATS if name != "onnx" and name != self.file_format)
            raise UsageError(
                f"{option}: has no meaning for --format {self.file_format}; leave it out, or give --format {others}"
            )
        if self.plan is not None:
            self._require_nothing_to_build()
        if self.publish and self.output is not None:
            raise UsageError(f"--publish: the repository is where it goes; leave --output {self.output} out")
        if (self.file_format == "tensorrt" or self.publish) and self.batch_min > 1:
            raise UsageError(f"--batch-min {self.batch_min}: Triton sends single images too; a served plan needs 1")

    def _require_nothing_to_build(self) -> None:
        assert self.plan is not None
        building = ("workspace_mib", "timing_cache", "builder_level", "emit_script")
        given = [field.name for field in fields(self) if field.name in building]
        given = [name for name in given if getattr(self, name) not in (0, "", STANDARD_LEVEL, None)]
        if given:
            option = "--" + given[0].replace("_", "-")
            raise UsageError(f"{option}: {self.plan} is built already; leave the option or --plan out")
        if not self.plan.is_file():
            raise UsageError(f"--plan {self.plan}: no such file; build it with the script that --emit-script writes")

    def require_free_target(self, repository: Repository, name: str) -> None:
        """Check before long work that what will be made has a place to go.

        Raises:
            UsageError: the name cannot be used, or something is there already.
        """
        from resx.repository.publishing import require_one_format

        checked_name(name)
        if self.file_format == "tensorrt-rtx" and not self.publish:
            target = self.engine_folder(name)
            if target.exists():
                raise UsageError(f"{target}: exists already; give another folder with -o, or move it away")
        elif self.emit_script is None:
            builder = None if self.file_format == "onnx" else self.file_format.replace("-", "_")
            require_one_format(repository, name, builder=builder)

    def engine_folder(self, name: str) -> Path:
        """Return where an engine of TensorRT for RTX goes."""
        return self.output or ENGINES / name

    def load_package(self) -> Any:
        """Return the package that builds, or None where none is needed.

        Raises:
            MissingCapability: it, or its GPU, is missing.
            UsageError: it does not build for the GPUs that were named.
        """
        if self.file_format == "onnx":
            return None
        from resx.export.tensorrt.builder import require_buildable
        from resx.runtimes.tensorrt_package import load_package

        options = self.options()
        if self.emit_script is not None:
            return None
        package = load_package("tensorrt" if self.file_format == "tensorrt" else "tensorrt_rtx")
        require_buildable(package, options)
        return package

    def options(self) -> EngineOptions:
        """Return how to build.

        Raises:
            UsageError: a value is out of range.
        """
        from resx.export.tensorrt.builder import EngineOptions

        keeps_measurements = self.file_format == "tensorrt" and self.timing_cache != "none"
        return EngineOptions(
            batch_min=self.batch_min or 1,
            batch_opt=self.batch_opt or self.largest_batch,
            batch_max=self.largest_batch,
            compute_capabilities=tuple(part.strip() for part in self.compute_capability.split(",") if part.strip()),
            workspace_mib=self.workspace_mib,
            timing_cache=self._measurements() if keeps_measurements else None,
            tf32=self.tf32,
            builder_level=self.builder_level,
            plan=self.plan,
        )

    def _measurements(self) -> Path:
        """Return the folder of what earlier builds measured: the user's, or the cache's."""
        if self.timing_cache:
            return Path(self.timing_cache)
        folder = make_cache_folder("tensorrt")
        require_own_cache(folder)
        return folder


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What an export left behind."""

    card: Card
    file: Path
    """The model: ONNX, plan or engine."""
    version: int | None
    """None where nothing was published."""
    next_step: str
    is_kept: bool = False
    """Whether it was made by an earlier export of the same."""


def reuse(
    flags: EngineFlags,
    repository: Repository,
    request: ExportRequest,
    serving: ServingOptions,
    *,
    name: str,
    command: str,
) -> Made | None:
    """Publish what an earlier export of the same made; None where there is none.

    Raises:
        UsageError: the name cannot be used, or its versions have another interface.
    """
    from resx.export import export_cache
    from resx.export.request import key_of
    from resx.repository import publishing

    if flags.file_format != "onnx":
        return None
    key = key_of(request)
    found = None if key is None else export_cache.find(key)
    if found is None:
        return None
    card, version = publishing.publish_kept(repository, found, serving, name=name, command=command)
    return Made(
        card=card,
        file=version.folder / card.model_file,
        version=version.version,
        next_step=deploying(name, repository),
        is_kept=True,
    )


def keep(flags: EngineFlags, request: ExportRequest, made: Made) -> None:
    """Keep what was made for the next export of the same."""
    from resx.export import export_cache
    from resx.export.request import key_of

    key = key_of(request) if flags.file_format == "onnx" else None
    if key is not None:
        export_cache.keep(key, made.file.parent)


def make(
    flags: EngineFlags,
    package: Any,
    repository: Repository,
    source: Exportable,
    options: ExportOptions,
    serving: ServingOptions,
    *,
    name: str,
    command: str,
    on_step: Callable[[str], None],
) -> Made:
    """Export in the format that was asked for, and put the result where it belongs.

    Raises:
        UsageError: the name cannot be a file's, or something is there already.
        ParityError, ExportError, ResxError: as the format's own function.
    """
    from resx.repository import publishing

    checked_name(name)
    if flags.file_format == "onnx":
        card, version = publishing.export_into(
            repository, source, options, serving, name=name, command=command, on_step=on_step
        )
        return Made(
            card=card,
            file=version.folder / card.model_file,
            version=version.version,
            next_step=deploying(name, repository),
        )

    from resx.export.tensorrt import engine_export

    engine = flags.options()
    if flags.emit_script is not None:
        card = engine_export.export_script(
            source, options, engine, flags.emit_script, name=name, command=command, on_step=on_step
        )
        file = flags.emit_script.parent / f"{name}.onnx"
        plan = flags.emit_script.parent / f"{name}.plan"
        return Made(
            card=card,
            file=file,
            version=None,
            next_step=f"on the GPU's machine: bash {flags.emit_script}; then this command there with --plan {plan}",
        )
    if flags.file_format == "tensorrt-rtx" and not flags.publish:
        target = flags.engine_folder(name)
        card = engine_export.export_engine_folder(
            source, options, engine, package, target, name=name, command=command, on_step=on_step
        )
        return Made(
            card=card,
            file=target / card.model_file,
            version=None,
            next_step="load it with TensorRT-RTX on the target GPU; --publish makes one that `resx serve` serves",
        )
    card, version = publishing.export_engine_into(
        repository, source, options, engine, package, serving, name=name, command=command, on_step=on_step
    )
    return Made(
        card=card,
        file=version.folder / card.model_file,
        version=version.version,
        next_step=deploying(name, repository)
        if flags.publish
        else (f"{deploying(name, repository)}; or in NVIDIA's container: docker compose --profile gpu up --wait"),
    )


def deploying(name: str, repository: Repository) -> str:
    """Return the commands by which a published model is served, from where the command was given."""
    there = "" if repository.root == Path("model_repository") else f" --repository {shlex.quote(str(repository.root))}"
    return f"resx serve --detach{there}; or, if a server runs: resx deploy {name}{there}"


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def remarks(card: Card) -> list[str]:
    """Return what a person should know of the engine, a line each."""
    engine = card.engine
    if engine is None:
        return [text] if (text := accelerated(card)) else []
    targets = ", ".join(engine.compute_capabilities) or "every GPU that TensorRT-RTX is portable to"
    precisions = engine.engine_precisions or engine.network_precisions
    counts = ", ".join(f"{number} {precision}" for precision, number in precisions.items())
    lines = [
        f"{engine.builder} {engine.version} for compute capability {targets}; batches {engine.batch_min} to "
        f"{engine.batch_max}, tuned for {engine.batch_opt}; timing cache: {engine.timing_cache}",
        f"{'engine' if engine.engine_precisions else 'parsed network'}: {counts} convolutions and matrix products",
    ]
    if engine.num_wider:
        lines.append(
            f"slower than {card.precision} could be: {engine.num_wider} of {sum(engine.engine_precisions.values())} "
            f"layers of the engine compute in a wider precision than the file asks for ({_some(engine.wider_layers)})"
        )
    if engine.executed and not engine.engine_precisions:
        lines.append("the engine does not say what its layers compute in")
    if engine.built_elsewhere:
        lines.append("built elsewhere: workspace, builder level and measurements are not known")
    if engine.grouped_in_fp32:
        lines.append(
            f"{len(engine.grouped_in_fp32)} grouped convolutions are in fp32, as the builder refused them in fp16 "
            "(NVIDIA/TensorRT issue 4838)"
        )
    if not engine.executed:
        lines.append(
            "the engine was not run: no GPU here that it is for; what was verified is the ONNX file it was built from"
        )
    return lines
