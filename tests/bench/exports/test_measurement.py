"""Forms measured in turns, in processes of their own."""

from __future__ import annotations

from pathlib import Path

from resx.bench.exports.measurement import FormFile, MeasuringPlan, measure_forms
from resx.repository.versions import Repository
from tests.support.tiny_models import publish_tiny


def test_every_form_is_measured_in_every_round_and_one_that_breaks_lets_the_others_go_on(tmp_path: Path) -> None:
    files = []
    for name in ("a", "broken"):
        card, published = publish_tiny(Repository(tmp_path / name), "m")
        files.append(FormFile(name=name, card=card, folder=published.folder))
    (files[1].folder / "model.onnx").write_bytes(b"no model")
    told: list[tuple[int, int]] = []

    found = measure_forms(
        files, MeasuringPlan(rounds=2, duration_s=0.1, batch_size=64), lambda done, total: told.append((done, total))
    )

    speed, reason = found
    assert not isinstance(speed, str)
    assert (speed.single_batch, speed.batch_size) == (1, 4), "the largest that the file takes"
    for spread in (speed.p50_ms, speed.images_per_s):
        assert 0 < spread.low <= spread.median <= spread.high
    assert speed.memory_bytes is not None
    assert 1_000_000 < speed.memory_bytes < 2_000_000_000
    assert isinstance(reason, str)
    assert "in process" in reason
    assert told[0] == (0, 8)
    assert told[-1] == (8, 8)
