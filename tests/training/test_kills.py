"""A few of the kills of `python -m benchmarks.kills_train`."""

from pathlib import Path

import pytest
from benchmarks.kills_train import train_kills


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_ends_as_one_that_was_left_alone(tmp_path: Path) -> None:
    found = train_kills(tmp_path, kills=3, seed=1)

    assert found.kills == 3
    assert found.faults == ()
    assert not list(tmp_path.glob("*/.staging-*"))
