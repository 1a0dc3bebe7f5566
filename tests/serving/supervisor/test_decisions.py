"""What is done about a server or a model that failed, by tables: histories in, decisions out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resx.errors import MissingCapability, ParityError, ResxError, ServerBusy, ServerError
from resx.serving.client.server_errors import ConnectionLost, ModelProcessLost, NoAnswerInTime, NotLoaded, WrongAnswer
from resx.serving.supervisor.decisions import (
    History,
    Kind,
    LoadFailed,
    failed_again,
    is_incurable,
    kind_of,
    next_step,
    wait_before_loading_s,
)
from resx.serving.supervisor.policy import Policy

POLICY = Policy(max_tries=3, probation_s=100.0)
NOW_S = 1000.0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NoAnswerInTime("x"), "hangs"),
        (LoadFailed("x"), "died"),
        (NotLoaded("x"), "died"),
        (ModelProcessLost("x"), "died"),
        (ConnectionLost("x"), "died"),
        (ServerBusy("x"), "died"),
        (WrongAnswer("x"), "wrong"),
        (ParityError("x"), "wrong"),
        (ServerError("x"), "wrong"),
        (MissingCapability("x"), "wrong"),
    ],
)
def test_what_an_error_says_of_a_model(error: ResxError, kind: Kind) -> None:
    assert kind_of(error) == kind


@pytest.mark.parametrize(
    ("history", "failed"),
    [
        (History(), 0),  # the first fault, whenever it comes
        (History(serving_since_s=NOW_S - 0.9), 1),  # it did not hold for a second
        (History(serving_since_s=NOW_S - 1.0), 0),
        (History(serving_since_s=NOW_S - 1.9, failed_in_a_row=2), 3),  # after a wait of 1 s it must hold for two
        (History(serving_since_s=NOW_S - 2.0, failed_in_a_row=2), 0),
    ],
)
def test_a_recovery_counts_as_failed_if_it_did_not_hold(history: History, failed: int) -> None:
    assert failed_again(history, POLICY, NOW_S) == replace(history, failed_in_a_row=failed)


@pytest.mark.parametrize(
    ("kind", "history", "incurable", "wait_s"),
    [
        ("died", History(), False, 0.0),
        ("died", History(failed_in_a_row=1), False, 0.5),
        ("died", History(failed_in_a_row=2), False, 1.0),
        ("died", History(failed_in_a_row=3), True, 0.0),
        ("died", History(doubted_s=NOW_S - 1), False, 0.0),  # a doubt is for wrong answers alone
        ("hangs", History(failed_in_a_row=1), False, 0.5),
        ("hangs", History(failed_in_a_row=2), True, 0.0),
        ("wrong", History(), False, 0.0),
        ("wrong", History(failed_in_a_row=9), False, 0.0),
        ("wrong", History(doubted_s=NOW_S - 99.9), True, 0.0),
        ("wrong", History(doubted_s=NOW_S - 100.0), False, 0.0),
    ],
)
def test_a_model_is_loaded_again_or_set_aside(kind: Kind, history: History, incurable: bool, wait_s: float) -> None:
    assert is_incurable(kind, history, POLICY, NOW_S) is incurable
    assert wait_before_loading_s(kind, history, POLICY, NOW_S) == wait_s


def test_a_model_that_hangs_is_tried_no_more_often_than_the_user_said() -> None:
    assert is_incurable("hangs", History(failed_in_a_row=1), Policy(max_tries=1), NOW_S)


@pytest.mark.parametrize(
    ("failed", "has_culprit", "step"),
    [(0, False, "restart"), (2, True, "restart"), (3, True, "set aside"), (3, False, "give up"), (4, False, "give up")],
)
def test_a_server_is_restarted_goes_on_without_a_model_or_is_given_up(
    failed: int, has_culprit: bool, step: str
) -> None:
    assert next_step(History(failed_in_a_row=failed), POLICY, has_culprit=has_culprit) == step
