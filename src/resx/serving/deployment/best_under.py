"""Which member of a family a server is to answer with: the most accurate one that holds a bound on latency there.

The latency in a card is that of one machine, in process, with whatever else ran on it that day; a server may have
other cores, a GPU, other models, and a protocol between. So the bound is held on the server itself: members are
loaded from the most accurate on, each as a rehearsal (under a name that no client knows, and gone afterwards, so
nothing that answers is touched), and asked single images one after another. The first whose median holds the bound is
taken. Where a server takes no files with a load request, the cards decide, and the result says so.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from resx.card import canary_rows
from resx.card.card import Card
from resx.card.depth_family import Family, member_name
from resx.errors import ObjectiveMissed, UsageError, nearest
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import FIRST, Manner
from resx.serving.deployment.file_checks import check_files, rejecting
from resx.serving.deployment.rehearsal import forget_rehearsal, rehearse
from resx.serving.deployment.served_model import alone, canary, find_served

_BOUND = re.compile(r"(\d+\.?\d*|\.\d+)\s*(us|ms|s)")
_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_WARM_UP = 5
_REQUESTS = 50
_FEWEST_REQUESTS = 9
_LONGEST_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """A member's newest version."""

    version: int
    card: Card

    @property
    def family(self) -> Family:
        """Its figures."""
        assert self.card.family is not None
        return self.card.family


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """What became of a member."""

    member: Member
    measured_ms: float | None
    """Median of single requests to the server; None where none were sent."""
    verdict: Literal["holds", "too slow", "not tried"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The member that holds the bound, and how it was found."""

    bound_ms: float
    measured: bool
    """Whether the server decided; else the latencies in the cards."""
    tried: tuple[Tried, ...]
    """All members, the most accurate first."""

    @property
    def chosen(self) -> Member:
        """The one that holds."""
        return next(one.member for one in self.tried if one.verdict == "holds")


def parse_bound(text: str) -> float:
    """Return a latency in milliseconds, as `5ms`, `0.005 s` or `800us` say it.

    Raises:
        UsageError: it is no time above 0 with its unit.
    """
    found = _BOUND.fullmatch(text.strip().lower().replace("µ", "u"))
    bound_ms = float(found[1]) * _MS[found[2]] if found else 0.0
    if not 0 < bound_ms < float("inf"):
        raise UsageError(f"--best-under {text}: give a time with its unit, such as 5ms, 0.005s or 800us")
    return bound_ms


def family_members(repository: Repository, name: str) -> list[Member]:
    """Return a family's members, the most accurate first and of ties the fastest; `name` is the family's or a member's.

    Of models whose newest versions are of another run than the newest one, none is a member any more.

    Raises:
        UsageError: there is no such family, or a member's card is damaged.
    """
    found = [one for model in repository.names() if (one := _member(repository, model, name))]
    asked = next((one.family.name for one in found if one.card.name == name), name)
    family = [one for one in found if one.family.name == asked]
    if not family:
        if name in repository.names():
            raise UsageError(f"{name}: not a member of a family; `resx export RUN --pareto 3` publishes one")
        known = {one.family.name for one in found} | set(repository.names())
        raise UsageError(
            f"{name}: no such family in {repository.root}{nearest(name, known)}; `resx export RUN --pareto 3` adds one"
        )
    newest = max(family, key=lambda one: one.card.created).family.whole_sha256
    alive = [one for one in family if one.family.whole_sha256 == newest]
    return sorted(alive, key=lambda one: (-one.family.accuracy, one.family.latency_ms))


def choose(
    client: TritonClient,
    repository: Repository,
    members: list[Member],
    bound_ms: float,
    *,
    manner: Manner = FIRST,
    on_step: Callable[[str], None] = lambda _step: None,
) -> Choice:
    """Find the most accurate member that holds the bound; what the server has loaded stays as it was.

    The cards decide where `manner` says that nothing is rehearsed.

    Raises:
        ObjectiveMissed: none does; the message says the fastest.
        VersionRejected: a member does not load, or does not answer as its card says.
    """
    tried: list[Tried] = []
    for member in members:
        if tried and tried[-1].verdict == "holds":
            break
        measured_ms = None
        if manner.rehearse:
            on_step(f"measure {member.card.name} on the server")
            measured_ms = measured_on(client, repository, member, wait=manner.wait)
        holds = (member.family.latency_ms if measured_ms is None else measured_ms) <= bound_ms
        tried.append(Tried(member=member, measured_ms=measured_ms, verdict="holds" if holds else "too slow"))
    if tried[-1].verdict != "holds":
        raise ObjectiveMissed(_nobody(tried, bound_ms, manner.rehearse, str(client.address)))
    rest = [Tried(member=one, measured_ms=None, verdict="not tried") for one in members[len(tried) :]]
    return Choice(bound_ms=bound_ms, measured=manner.rehearse, tried=(*tried, *rest))


def measured_on(client: TritonClient, repository: Repository, member: Member, *, wait: bool = True) -> float:
    """Return the median time in ms of single requests, one after another, to a rehearsal of the member.

    50 requests after 5 that do not count, or as many as fit into 5 s, but 9. The server's transport is part of it.

    Raises:
        VersionRejected: it does not load, or does not answer as its card says.
        ServerError: somebody else deploys it, and `wait` is false.
    """
    name, version = member.card.name, member.version
    with alone(repository, name, wait=wait):
        published = repository.find(name, version)
        card = check_files(find_served(client, repository, name), published)
        forget_rehearsal(client, name)
        with (
            rejecting(name, version, "the models loaded before are unchanged"),
            rehearse(client, published) as alias,
        ):
            canary(client, alias, version, card)
            interface = client.interface(alias, version)
            image = canary_rows.canary_input(member.card.signature, 1)
            taken_ms: list[float] = []
            begun = time.perf_counter()
            while len(taken_ms) < _WARM_UP + _FEWEST_REQUESTS or (
                len(taken_ms) < _WARM_UP + _REQUESTS and time.perf_counter() - begun < _LONGEST_S
            ):
                started = time.perf_counter()
                client.infer(alias, interface, image, version)
                taken_ms.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken_ms[_WARM_UP:])


def _member(repository: Repository, model: str, asked: str) -> Member | None:
    """Return the newest version of a model if its card names a family."""
    try:
        card = repository.card(model)
    except UsageError:
        # A model of others, without a card, or one whose card is damaged: no matter, unless it was to be compared.
        if model == asked or re.fullmatch(re.escape(member_name(asked, 0)[:-1]) + r"\d+", model):
            raise
        return None
    return None if card.family is None else Member(version=repository.versions(model)[-1], card=card)


def _nobody(tried: list[Tried], bound_ms: float, measured: bool, server: str) -> str:
    def latency(one: Tried) -> float:
        return one.member.family.latency_ms if one.measured_ms is None else one.measured_ms

    fastest = min(tried, key=latency)
    family = fastest.member.family
    where = f"on {server}" if measured else "by the latencies in their cards"
    return (
        f"--best-under {bound_ms:g}ms: no model of {family.name} meets it {where}; the fastest is "
        f"{fastest.member.card.name} with {latency(fastest):.3g} ms and an accuracy of {family.accuracy:.2%}; raise "
        "the limit, or export smaller models"
    )
