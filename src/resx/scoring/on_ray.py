"""A Ray cluster: Ray Data has a pool of actors score the parts; written they are here, as those of any other run.

    here           lists the source, cuts it into parts, writes each part that comes back
    object store   the model's file and the listing, put there once
    actors         open the file out of the store, read, decode and compute a part at a time

A part whose node dies is scored again by another actor. Should Ray then hand in a part twice, the second is dropped
here; should it lose one, that is an error, and `--resume` goes on.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resx import errors
from resx.errors import MissingCapability, ResxError
from resx.files.reading import MIB, ReadLimits, read_limits, set_limits
from resx.scoring.in_process import ModelFile, Sessions
from resx.scoring.parts import Parts
from resx.scoring.ray_cluster import Pool, actors_on, connect, explain_no_room, last_line, live_nodes, require_answer
from resx.scoring.rows import Model
from resx.scoring.run import OnRows, Scored
from resx.scoring.sources.source import ImageSource
from resx.scoring.stream import score_rows, workers_for
from resx.serving.embedded.backend_session import THREADS, backend_of
from resx.streams import silence_descriptor

if TYPE_CHECKING:
    import pyarrow as pa

_TASKS_IN_FLIGHT = 2
"""Parts that an actor has been handed: the next one, so that it never waits, and no more, so that others do not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnRay:
    """The version's file, computed by a cluster that this process is connected to."""

    file: ModelFile
    pool: Pool
    actors: int

    @property
    def model(self) -> Model:
        """What it asks."""
        return self.file.model

    def scored_parts(self, source: ImageSource, parts: Parts, numbers: list[int], on_rows: OnRows) -> Scored:
        """Give the parts as they are finished."""
        waiting = set(numbers)
        for number, rows in self._answers(source, parts, numbers):
            if number in waiting:
                waiting.remove(number)
                on_rows(rows.num_rows)
                yield number, rows
        if waiting:
            raise ResxError(
                f"--ray {self.pool.address}: {len(waiting)} parts were not returned; continue with --resume"
            )

    def _answers(self, source: ImageSource, parts: Parts, numbers: list[int]) -> Iterator[tuple[int, pa.Table]]:
        import ray
        import ray.data

        asked = [dict(zip(("number", "start", "stop"), (n, *parts.bounds(n)), strict=True)) for n in numbers]
        try:
            task = ActorSettings(
                model=self.model,
                config=self.file.config,
                content=ray.put(self.file.path.read_bytes()),
                source=ray.put(source.for_other_machines()),
                pool=self.pool,
                top=parts.manifest.top,
                probe=_probe(source),
                limits=read_limits(),
            )
            answers = ray.data.from_items(asked, override_num_blocks=len(asked)).map_batches(
                Scorer,
                fn_constructor_kwargs={"task": task},
                batch_size=1,
                batch_format="pyarrow",
                compute=ray.data.ActorPoolStrategy(size=self.actors, max_tasks_in_flight_per_actor=_TASKS_IN_FLIGHT),
                num_cpus=self.pool.cpus,
                num_gpus=self.pool.gpus,
            )
            tables: Any = answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            for table in tables:
                for row in table.to_pylist():
                    yield row["number"], _rows_of(row)
        except ResxError:
            raise
        except Exception as error:
            raise _in_a_line(self.pool.address, error) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorSettings:
    """What an actor needs beside the parts."""

    model: Model
    config: dict[str, Any]
    content: Any
    """Reference to the file's bytes in the object store."""
    source: Any
    """Reference to the listing in the object store."""
    pool: Pool
    top: int
    probe: ImageSource | None
    """An image that the driver could read."""
    limits: ReadLimits
    """Those that the driver was given."""


class Scorer:
    """The model in an actor, open from its first part to its last."""

    def __init__(self, task: ActorSettings) -> None:
        self._task = task
        set_limits(megapixels=task.limits.pixels // 1_000_000, file_mib=task.limits.file_bytes // MIB)
        self._compute: Sessions | None = None
        self._source: ImageSource | None = None

    def __call__(self, asked: pa.Table) -> pa.Table:
        """Return a part's number and its rows, or the error that ends the run: what is raised becomes a traceback."""
        import pyarrow as pa

        (bounds,) = asked.to_pylist()
        rows, kind, message = b"", "", ""
        try:
            rows = self._rows(bounds["start"], bounds["stop"])
        except ResxError as error:
            kind, message = type(error).__name__, str(error)
        return pa.table({"number": asked["number"], "rows": [rows], "error": [kind], "message": [message]})

    def _rows(self, start: int, stop: int) -> bytes:
        import pyarrow as pa
        import ray

        if self._source is None:
            self._source = ray.get(self._task.source)
        source = self._source.part(start, stop)
        if self._compute is None:
            self._compute = self._opened()
        workers = workers_for(source, in_flight=1, cores=self._task.pool.cpus)
        table = pa.concat_tables(score_rows(source, self._task.model, self._compute, self._task.top, workers))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return bytes(sink.getvalue().to_pybytes())

    def _opened(self) -> Sessions:
        import ray

        task = self._task
        if task.probe is not None:
            _require_readable(task.probe)
        threads = THREADS[backend_of(task.config)]
        alone = {key: {"string_value": value.format(task.pool.cpus)} for key, value in threads.items()}
        config = task.config | {"instance_group": [], "parameters": task.config.get("parameters", {}) | alone}
        return Sessions(ray.get(task.content), task.model, config, instances=1, device=task.pool.device)


@contextlib.contextmanager
def on_ray(file: ModelFile, pool: Pool, note: Callable[[str], None]) -> Iterator[OnRay]:
    """Connect to the cluster, and let go of it at the end; what Ray prints meanwhile stays out of stdout.

    Raises:
        MissingCapability: Ray is not installed, the cluster does not answer, or no node has room for an actor; or the
            model is two files, and actors get one.
    """
    if file.path.suffix == ".xml":
        raise MissingCapability(
            f"--ray: {file.path.name} needs its .bin, but Ray's actors get one file only; remove --ray"
        )
    require_answer(pool.address)
    with silence_descriptor(sys.stdout):
        with silence_descriptor(sys.stderr):
            connect(pool.address)
        import ray

        try:
            before = live_nodes()
            room = sum(actors_on(resources, pool) for resources in before.values())
            if not room:
                raise MissingCapability(explain_no_room(before, pool))
            yield OnRay(file=file, pool=pool, actors=pool.actors or room)
            if lost := len(before.keys() - live_nodes().keys()):
                note(f"--ray {pool.address}: {lost} of {len(before)} nodes were lost; the others took over their parts")
        finally:
            ray.shutdown()


def _rows_of(answer: dict[str, Any]) -> pa.Table:
    """Return the rows that an actor sent.

    Raises:
        ResxError: of the kind that the actor met.
    """
    import pyarrow as pa

    if answer["error"]:
        kind: type[ResxError] = getattr(errors, answer["error"], ResxError)
        raise kind(answer["message"])
    return pa.ipc.open_stream(answer["rows"]).read_all()


def _probe(source: ImageSource) -> ImageSource | None:
    """Return the first image if it can be read here: then it must be readable at the actors, too."""
    first = source.part(0, 1)
    try:
        _require_readable(first)
    except ResxError:
        return None
    return first


def _require_readable(probe: ImageSource) -> None:
    for row in probe.rows():
        try:
            row.read()
        except Exception as error:
            raise ResxError(
                f"{row.path}: the driver can read it and node {os.uname().nodename} cannot ({last_line(error)}); put "
                "the images on a path that all nodes share, or give a URI"
            ) from error


def _in_a_line(address: str, error: Exception) -> ResxError:
    line = last_line(error)
    if "No module named" in line:
        return MissingCapability(f"--ray {address}: a node reports {line}; install the same packages on every node")
    return ResxError(f"--ray {address}: {line}; see Ray's logs on its nodes, then continue with --resume")
