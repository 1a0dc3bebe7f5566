"""What `resx bench` was asked to do, and the doing of it."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from resx.cli.options.connection import Connection
from resx.cli.options.validation import choose
from resx.cli.output import Live, Output
from resx.cli.views.bench_result import progress_text
from resx.errors import UsageError

if TYPE_CHECKING:
    from resx.bench.contents import Contents
    from resx.bench.load.inputs import Inputs
    from resx.bench.load.load_plan import LoadPlan
    from resx.bench.load.payloads import Payloads
    from resx.bench.load.wire import Target
    from resx.bench.loadgen import ScenarioResult
    from resx.bench.measuring import Extras
    from resx.bench.result_files import ResultFiles
    from resx.bench.results.result import BenchResult, Measurement
    from resx.bench.results.samples import Samples
    from resx.bench.tuning.highest_rate import Slo
    from resx.gpus import Device
    from resx.repository.versions import Repository


LOADGEN_CONNECTIONS = 24
"""Fewer than a model's queue takes, unless the user bounds it lower; what is due beyond them waits, and that counts."""


def target_of(text: str, server: Connection, inputs: Inputs) -> Target:
    """Read `NAME`, `NAME:VERSION`, `NAME@URL` and ask the server for the model."""
    from resx.bench.measuring import target_of as asked

    match = re.fullmatch(r"([^@:]+)(?::(\d+))?(?:@(.+))?", text)
    if match is None or match[2] == "0":
        raise UsageError(f"{text!r}: give NAME, NAME:VERSION or NAME@URL")
    return asked(server.address(match[3] or ""), match[1], int(match[2]) if match[2] else None, inputs)


@dataclass(kw_only=True, slots=True)
class BenchRequest:
    """Everything that was asked of one benchmark."""

    targets: list[Target]
    plans: list[LoadPlan]
    slo: str
    compare: bool
    repeat: int
    data: Path | None
    """A folder of images to send."""
    check: bool | None
    in_process: bool
    shared_memory: bool
    repository: Repository
    out: Output
    keep_samples: bool
    kept: list[tuple[Measurement, Samples, int]] = field(default_factory=list)
    interrupted: bool = False
    """By Ctrl-C, between two windows."""

    def run(self) -> BenchResult:
        """Measure."""
        from resx.bench import comparing, measuring
        from resx.bench.contents import facts_of
        from resx.bench.tuning.highest_rate import parse_slo

        objective = parse_slo(self.slo) if self.slo else None
        if self.in_process:
            self._require_files()
        payloads = {id(target): self._contents().for_target(target) for target in self.targets}
        command = shlex.join(["resx", *sys.argv[1:]])
        found: list[Measurement] = []
        facts: dict[str, float | str | bool | None] | None = None
        with self.out.live() as tell:
            extras = self._extras(payloads, tell)
            try:
                if self.compare:
                    self._compare(extras, tell, found)
                elif objective is not None:
                    facts = self._search(objective, extras, tell, found)
                else:
                    self._measure_all(extras, tell, found)
            except KeyboardInterrupt:
                if not found:
                    raise
                self.interrupted = True  # between two windows: those that are whole are kept
        result = measuring.result_of(self.targets[0], found, command=command)
        return result.model_copy(
            update={
                "repeated": comparing.summarize_repeats(found) if objective is None else (),
                "ratios": comparing.ratios([target.name for target in self.targets], found)
                if self.compare and found
                else (),
                "slo": facts,
                "models": {target.name: facts_of(self.repository, target) for target in self.targets},
            }
        )

    def run_scenario(self, name: str, log_folder: Path, latency_bound_ms: float) -> ScenarioResult:
        """Run one of MLPerf's scenarios on the first target."""
        from resx.bench import loadgen
        from resx.bench.load.scenario_plan import ScenarioPlan

        scenario = loadgen.SCENARIOS[choose("--scenario", name, tuple(loadgen.SCENARIOS))]
        loadgen.require_loadgen()
        target, plan = self.targets[0], self.plans[0]
        scenario_plan = ScenarioPlan(
            scenario=scenario,
            duration_s=plan.duration_s,
            rate_per_s=plan.rate_per_s,
            latency_bound_ms=latency_bound_ms,
            connections=LOADGEN_CONNECTIONS,
            log_folder=log_folder,
            seed=plan.seed,
            warmup_s=plan.warmup_s,
            timeout_s=plan.timeout_s,
        )
        with self.out.live() as tell:
            tell.begin(f"{scenario} for {plan.duration_s:g} s, by LoadGen")
            return loadgen.run_scenario(
                target, scenario_plan, self._contents().for_target(target)(target, plan.batch_size)
            )

    def write(self, wanted: ResultFiles, result: BenchResult) -> list[Path]:
        """Write the files."""
        from resx.bench import result_files

        return result_files.write(wanted, result, self.kept)

    def _compare(self, extras: Extras, tell: Live, found: list[Measurement]) -> None:
        from resx.bench import comparing

        plan = self.plans[0]
        comparing.compare(
            self.targets,
            plan,
            extras,
            self.repeat,
            on_measured=found.append,
            on_round=lambda number, target: tell.begin(f"pair {number} of {self.repeat}, {target.name}, {plan.title}"),
        )

    def _measure_all(self, extras: Extras, tell: Live, found: list[Measurement]) -> None:
        from resx.bench.measuring import measure

        for target in self.targets:
            for plan in self.plans:
                for number in range(1, self.repeat + 1):
                    again = f", run {number} of {self.repeat}" if self.repeat > 1 else ""
                    tell.begin(f"{target.name}, {plan.title}{again}" if len(self.targets) > 1 else plan.title + again)
                    found.append(measure(target, plan, extras, repeat=number))
                    if self.in_process and not found[-1].interrupted:
                        found[-1] = self._beside_in_process(found[-1], target, plan, extras, tell)
                    if found[-1].interrupted:
                        return

    def _beside_in_process(
        self, measured: Measurement, target: Target, plan: LoadPlan, extras: Extras, tell: Live
    ) -> Measurement:
        """Run the version's file without the server, in the largest batches that the load could make."""
        from resx.bench.in_process import measure_in_process

        largest = max(1, target.interface.max_batch_size)
        batch_size = min(largest, max(plan.concurrency, 1) * plan.batch_size)
        tell.begin(f"the same file in process, batches of {batch_size}")
        folder = self.repository.version_folder(target.model, target.answering)
        assert extras.payloads is not None
        run = measure_in_process(
            folder,
            self.repository.card(target.model, target.answering),
            batch_size,
            instances=0,
            threads=0,
            duration_s=plan.duration_s,
            tensors=extras.payloads(target, batch_size).tensors,
            device=self._device(),
        )
        return measured.model_copy(update={"in_process": run.compared(measured.images_per_s)})

    def _require_files(self) -> None:
        """Check before minutes of load that each target's file can be run without the server.

        Raises:
            UsageError: a target is an image endpoint, or its file has no card.
        """
        for target in self.targets:
            if target.owner is not None:
                raise UsageError(
                    f"--in-process: {target.model} is an image endpoint, which exists on a server only; remove the "
                    f"option, or measure {target.owner.model}"
                )
            self.repository.card(target.model, target.answering)

    def _device(self) -> Device:
        """Return what this repository's own server computes on."""
        from resx.serving.running.server_state import running_server

        state = running_server(self.repository)
        return state.device if state else "cpu"

    def _search(
        self, objective: Slo, extras: Extras, tell: Live, found: list[Measurement]
    ) -> dict[str, float | str | bool | None]:
        from resx.bench.tuning.highest_rate import search

        done = search(self.targets[0], objective, self.plans[0], extras, on_trial=tell.begin, on_measured=found.append)
        last = done.trials[-1] if done.trials else None
        return {
            "asked": self.slo,
            "bound_ms": objective.bound_ms,
            "rate_per_s": done.rate_per_s,
            "capacity_per_s": done.capacity_per_s,
            "capacity_after_per_s": done.capacity_after_per_s or None,
            "wandered": done.wandered,
            "share_of_capacity": done.rate_per_s / done.closed_loop_per_s if done.rate_per_s else None,
            "reached_ms": getattr(last, objective.field) if last and done.rate_per_s else None,
            "limited_by": done.limited_by if done.rate_per_s else None,
            "client_limit_per_s": done.client_limit_per_s,
            "why": done.why or None,
            "interrupted": any(measured.interrupted for measured in found),
        }

    def _contents(self) -> Contents:
        from resx.bench.contents import Contents

        return Contents(repository=self.repository, data=self.data, check=self.check, seed=self.plans[0].seed)

    def _extras(self, payloads: dict[int, Callable[[Target, int], Payloads]], tell: Live) -> Extras:
        from resx.bench.measuring import Extras

        def keep(measured: Measurement, window: Samples, opened_ns: int) -> None:
            if self.keep_samples:
                self.kept.append((measured, window, opened_ns))

        return Extras(
            payloads=lambda target, batch_size: payloads[id(target)](target, batch_size),
            shared_memory=self.shared_memory,
            on_samples=keep,
            on_progress=lambda progress, left_s: tell.show(progress_text(progress, left_s)),
        )
