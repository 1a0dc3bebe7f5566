"""A model fails beside a healthy one, again and again, each time in another way; the healthy one's clients see nothing.

Bars: no request of the healthy model lost or wrong, the same server process, the same stub, and every bad model set
aside.
"""

from __future__ import annotations

import json
import shutil
import time

from benchmarks.fault_clients import Row, load, published, row_without_loss, serve
from tests.support import bad_models
from tests.support.bad_models import Spoil, serve_unproved
from tests.support.running_triton import MODEL, current, stub_of, wait_until

from resx.repository.versions import Repository
from resx.serving.running.server_state import now_s

WAYS: dict[str, Spoil] = {
    "wrong": bad_models.misjudged,
    "wrong by a little": bad_models.misjudged_a_little,
    "NaN": bad_models.not_a_number,
    "another shape": bad_models.another_shape,
    "an error": bad_models.failing,
    "rows that depend on each other": bad_models.dependent_on_company,
}


def bad_neighbours(requests: int) -> list[Row]:
    """Let one bad model after the other be found and set aside until so many requests were sent to the good one."""
    seconds: list[float] = []
    missed: set[str] = set()
    with published() as (repository, questions):
        names = [_copy(repository, f"bad{number}", spoil) for number, spoil in enumerate(WAYS.values())]
        state = serve(repository, [f"--load={MODEL}"])
        stub = None if state.native else stub_of(state)
        with load(state, questions, (0, 0)) as askers:
            while (sent := sum(len(asker.events) for asker in askers)) < requests or len(seconds) < len(names):
                name = names[len(seconds) % len(names)]
                begun = now_s()
                serve_unproved(state, repository, name)
                wait_until(lambda name=name: name not in current(repository).set_aside, f"{name} counts as deployed")
                wait_until(lambda name=name: name in current(repository).set_aside, f"{name} is set aside")
                seconds.append(now_s() - begun)
                while sum(len(asker.events) for asker in askers) < min(requests, sent + requests // (2 * len(names))):
                    time.sleep(0.05)
        after = current(repository)
        if after.server_pid != state.server_pid:
            missed.add("the server was started again")
        if stub is not None and stub_of(after) != stub:
            missed.add("the healthy model was loaded again")
    row = row_without_loss("bad models beside a healthy one", len(seconds), askers, seconds, missed)
    return [row]


def _copy(repository: Repository, name: str, spoil: Spoil) -> str:
    """Publish a copy of the healthy model that fails in some way."""
    folder = repository.root / name
    shutil.copytree(repository.root / MODEL, folder)
    config = folder / "config.pbtxt"
    config.write_text(config.read_text().replace(f'name: "{MODEL}"', f'name: "{name}"', 1))
    card = folder / "1" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"name": name}))
    spoil(folder / "1")
    return name
