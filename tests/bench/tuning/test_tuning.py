"""Settings are chosen by measurement, put in force and taken back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resx.bench.results.samples import Samples
from resx.bench.tuning.highest_rate import parse_slo
from resx.bench.tuning.ranking import front, halve, shortest_ms, worth
from resx.bench.tuning.setting_space import batch_settings, delays_us, thread_settings
from resx.bench.tuning.trials import Bench, Search, answers_per_s
from resx.bench.tuning.tuning import outcome
from resx.card.tuning import Objective, Setting, Trial, Tuning
from resx.errors import ResxError, UsageError
from resx.repository import config_pbtxt
from resx.repository.versions import Repository
from resx.serving.client.client import TritonClient
from resx.serving.deployment.deploy import Manner, deploy
from resx.serving.deployment.rehearsal import rehearsal_name
from resx.serving.deployment.rollback import rollback, undeploy
from resx.serving.deployment.tuned_configuration import Candidate, key_of, put_in_force, setting_of
from tests.support.command import Finished
from tests.support.running_triton import RunningTriton
from tests.support.tiny_models import publish_tiny

BEFORE = Setting(version=1, instances=1, threads=0, spinning=False, max_batch=8, delay_us=0)


def trial(
    setting: Setting, seconds: float = 1.0, *, per_s: float = 1.0, single_ms: float = 1.0, why: str = ""
) -> Trial:
    return Trial(
        setting=setting,
        stage="threads",
        seconds=seconds,
        images_per_s=per_s,
        p50_ms=1.0,
        p99_ms=1.0,
        single_ms=single_ms,
        invalid=why,
    )


def tuning_of(before: Setting, chosen: Setting, config_before: str) -> Tuning:
    return Tuning(
        objective="throughput",
        concurrency=8,
        cores=2,
        client_elsewhere=False,
        processor="",
        created="",
        command="",
        before=before,
        config_before=config_before,
        chosen=chosen,
        ratio=1.2,
        low=1.1,
        high=1.3,
        num_pairs=5,
        trials=(),
    )


def answers_at(*moments_s: float) -> Samples:
    done = np.array([int(moment * 1e9) for moment in moments_s], np.int64)
    return Samples(due_ns=done, sent_ns=done, done_ns=done, kind=np.zeros(len(done), np.int64), errors=())


@pytest.mark.parametrize("offset_s", [0.0, 0.1, 0.2])
def test_batches_at_the_ends_of_a_window_do_not_change_the_throughput(offset_s: float) -> None:
    """A batch of 8 each quarter of a second: counted over 2 s of window, 64 or 72 answers."""
    moments = [offset_s + 0.25 * batch for batch in range(9) if offset_s + 0.25 * batch <= 2.0 for _ in range(8)]
    found = answers_per_s(answers_at(*moments))
    assert found is not None
    assert abs(found / 32 - 1) < 0.02


def test_too_few_answers_have_no_slope() -> None:
    assert answers_per_s(answers_at()) is None
    assert answers_per_s(answers_at(1.0)) is None
    assert answers_per_s(answers_at(1.0, 1.0)) is None


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 48])
def test_no_setting_has_more_threads_than_cores(cores: int) -> None:
    settings = thread_settings(BEFORE, [(1, "onnxruntime", "fp32"), (3, "openvino", "bf16")], cores, on_cpu=True)
    assert settings[0] == BEFORE
    assert len(set(settings)) == len(settings)
    assert {setting.version for setting in settings} == {1, 3}
    assert all(setting.instances * setting.threads <= cores for setting in settings)
    assert all(setting.threads > 1 and setting.runtime == "onnxruntime" for setting in settings if setting.spinning)
    assert any(setting.instances * setting.threads == cores for setting in settings)


def test_on_a_gpu_only_the_instances_change() -> None:
    settings = thread_settings(BEFORE, [(1, "onnxruntime", "fp32")], 8, on_cpu=False)
    assert {(setting.threads, setting.spinning) for setting in settings} == {(0, False)}
    assert {setting.instances for setting in settings} == {1, 2, 3, 4}


def test_batches_stay_large_enough_for_the_canary() -> None:
    settings = batch_settings(BEFORE, BEFORE, largest=8, least=4)
    assert {setting.max_batch for setting in settings} == {8, 4}
    assert len({setting.delay_us for setting in settings}) > 1
    unjoined = [s.delay_us for s in batch_settings(BEFORE, BEFORE, largest=32, least=2) if s.max_batch == 2]
    assert unjoined == [0]
    fixed = BEFORE.model_copy(update={"max_batch": 0})
    assert batch_settings(fixed, fixed, largest=8, least=1) == [fixed]


def test_a_slow_model_is_given_longer_to_fill_its_batches() -> None:
    assert delays_us(None) == delays_us(0.8) == delays_us(6.0) == (0, 200, 1000)
    assert delays_us(45.0) == (0, 1000, 9000)
    found = batch_settings(BEFORE, BEFORE, largest=8, least=8, delays=delays_us(45.0))
    assert {setting.delay_us for setting in found} >= {0, 1000, 9000}


def test_halving_finds_the_best_and_never_drops_the_setting_in_force() -> None:
    settings = [BEFORE, *(BEFORE.model_copy(update={"delay_us": delay}) for delay in range(1, 12))]
    rounds: dict[float, list[Setting]] = {}

    def run(setting: Setting, seconds: float) -> Trial:
        rounds.setdefault(seconds, []).append(setting)
        return trial(setting, seconds, per_s=setting.delay_us, why="broken" if setting.delay_us == 11 else "")

    assert halve(settings, BEFORE, run, "throughput", 1.0, 0).delay_us == 10
    assert [len(measured) for measured in rounds.values()] == [12, 5, 3]
    assert all(BEFORE in measured for measured in rounds.values())
    assert list(rounds) == [1.0, 2.0, 4.0]


def test_where_nothing_can_be_measured_the_reason_is_told() -> None:
    with pytest.raises(ResxError, match="no setting could be measured: out of memory"):
        halve([BEFORE], BEFORE, lambda setting, s: trial(setting, s, why="out of memory"), "latency", 1.0, 0)


def test_the_front_holds_what_no_other_setting_beats_in_both() -> None:
    found = [
        trial(BEFORE.model_copy(update={"delay_us": number}), per_s=per_s, single_ms=single_ms)
        for number, (per_s, single_ms) in enumerate([(10, 1), (20, 2), (15, 3)])
    ]
    assert front(found) == [found[1], found[0]]


def test_a_chosen_setting_answers_as_a_version_of_its_own_and_can_be_taken_back(
    triton: RunningTriton, resx: Callable[..., Finished]
) -> None:
    repository, name = triton.repository, "tuned"
    publish_tiny(repository, name)
    config = repository.root / name / "config.pbtxt"
    text = config.read_text()
    before = setting_of(repository, name, 1)
    chosen = before.model_copy(update={"instances": 2, "threads": 1, "delay_us": 200})
    tuning = tuning_of(before, chosen, text)
    with TritonClient(triton.state.address("grpc")) as client:
        deploy(client, repository, name)
        candidate = Candidate(repository=repository, name=name, version=1)
        assert put_in_force(client, repository, candidate, tuning, threads=True).version == 2
        assert repository.card(name).tuning == tuning
        assert setting_of(repository, name, 2) == chosen.model_copy(update={"version": 2})
        served = client.config(name)
        assert served["instance_group"][0]["count"] == 2
        assert int(served["dynamic_batching"]["max_queue_delay_microseconds"]) == 200
        done = resx("tune", name, "--undo", f"--repository={repository.root}", "--json")
        assert done.code == 0, done.err
        assert done.json == {"name": name, "removed": 2, "version": 1, "deployed": True}
        assert config.read_text() == text
        assert repository.versions(name) == client.model_versions()[name] == [1]
        again = resx("tune", name, "--undo", f"--repository={repository.root}")
        assert again.code == 2
        assert "nothing to undo" in again.err
        undeploy(client, repository, name)


def test_an_export_for_another_runtime_is_put_in_force_and_each_version_answers_under_its_own(
    triton: RunningTriton, resx: Callable[..., Finished], tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    repository, name, scratch = triton.repository, "moved", Repository(tmp_path / "scratch")
    publish_tiny(repository, name)
    publish_tiny(scratch, name, runtime="openvino")
    candidate = Candidate(repository=scratch, name=name, version=1, is_published=False)
    config = repository.root / name / "config.pbtxt"
    text, before = config.read_text(), setting_of(repository, name, 1)
    assert before.runtime == "onnxruntime"
    chosen = before.model_copy(update={"version": 0, "runtime": "openvino", "spinning": False, "spin_us": 0})
    assert key_of(chosen) == candidate.key
    with TritonClient(triton.state.address("grpc")) as client:
        deploy(client, repository, name)
        assert put_in_force(client, repository, candidate, tuning_of(before, chosen, text), threads=True).version == 2
        assert client.config(name)["backend"] == "openvino"
        assert setting_of(repository, name, 2) == chosen.model_copy(update={"version": 2})
        assert rollback(client, repository, name).version == 1
        assert client.config(name)["backend"] == "onnxruntime"
        assert rollback(client, repository, name).version == 2
        with pytest.raises(UsageError, match="cannot stay loaded beside 1"):
            deploy(client, repository, name, 1, manner=Manner(keep_previous=True))
        done = resx("tune", name, "--undo", f"--repository={repository.root}", "--json")
        assert done.code == 0, done.err
        assert config.read_text() == text
        assert client.config(name)["backend"] == "onnxruntime"
        assert client.model_versions()[name] == [1]
        undeploy(client, repository, name)


def test_tuning_for_real_tries_settings_beside_the_model_that_answers_and_leaves_nothing(
    triton: RunningTriton, resx: Callable[..., Finished], tmp_path: Path
) -> None:
    repository, plot = triton.repository, tmp_path / "front.png"
    text = (repository.root / "tiny" / "config.pbtxt").read_text()
    options = ["--cores", "1", "--duration", "0.2", "--pairs", "2", "--dry-run", "--json", "--client-elsewhere"]
    options += ["--objective", "latency", "--plot", str(plot)]
    done = resx("tune", "tiny", f"--repository={repository.root}", *options)
    assert done.code == 0, done.err
    assert done.json["version"] is None
    assert len(done.json["trials"]) >= 4
    assert not any(one["invalid"] for one in done.json["trials"])
    assert all(one["cpu_ms_per_request"] > 0 and one["memory_bytes"] > 1e6 for one in done.json["trials"])
    assert all(one["setting"]["precision"] == "fp32" for one in done.json["trials"])
    assert all(one["setting"]["instances"] == 1 for one in done.json["trials"])
    assert (repository.root / "tiny" / "config.pbtxt").read_text() == text
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert config_pbtxt.parse(done.json["config_before"]).name == "tiny"
    with TritonClient(triton.state.address("grpc")) as client:
        assert not client.is_model_ready(rehearsal_name("tiny"))


def test_under_an_objective_a_setting_is_worth_the_highest_rate_that_holds_it(triton: RunningTriton) -> None:
    address, repository = triton.state.address("http"), triton.repository
    before = setting_of(repository, "tiny", 1)
    slo = parse_slo("p50=2s")
    with TritonClient(address) as client:
        bench = Bench(
            client=client,
            address=address,
            repository=repository,
            name="tiny",
            before=before,
            candidates=(Candidate(repository=repository, name="tiny", version=1),),
            search=Search(
                objective="throughput",
                concurrency=8,
                cores=1,
                client_elsewhere=False,
                duration_s=0.2,
                num_pairs=2,
                seed=0,
                slo=slo,
            ),
        )
        found = bench.trial(before, "threads", 0.2, True, start_per_s=20.0)
    if "the client lacked CPU time" in found.invalid:  # a loaded machine; it may say so, and nothing else
        return
    assert not found.invalid
    assert found.images_per_s > 0
    assert found.p50_ms is not None
    assert found.p50_ms <= slo.bound_ms


def test_what_no_setting_holds_is_said(triton: RunningTriton, resx: Callable[..., Finished]) -> None:
    options = ["--cores", "1", "--duration", "0.2", "--pairs", "2", "--dry-run"]
    done = resx("tune", "tiny", f"--repository={triton.repository.root}", "--slo", "p50=1us", *options)
    assert done.code == 3
    assert "no setting meets the objective" in done.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("pairs", "ratio", "better"),
    [
        ([(100.0, 120.0), (100.0, 121.0), (100.0, 122.0)], 1.21, True),
        ([(100.0, 80.0), (100.0, 150.0), (100.0, 101.0)], 1.07, False),
        ([(0.0, 50.0), (0.0, 60.0)], None, True),
        ([(0.0, 50.0), (0.0, 0.0)], 1.0, False),
        ([(0.0, 50.0)], 1.0, False),
        ([(100.0, 0.0), (100.0, 150.0), (100.0, 151.0)], 1.0, False),
        ([(0.0, 90.0), (100.0, 150.0), (100.0, 151.0)], 1.5, True),
        ([], 1.0, False),
    ],
)
def test_only_a_difference_that_the_pairs_are_sure_of_counts(
    pairs: list[tuple[float, float]], ratio: float | None, better: bool
) -> None:
    best = BEFORE.model_copy(update={"delay_us": 7})
    found = outcome(BEFORE, best, pairs, (), True)
    assert found.ratio == (None if ratio is None else pytest.approx(ratio, abs=0.01))
    assert found.is_better("throughput") is better
    assert not outcome(BEFORE, BEFORE, pairs, (), True).is_better("throughput")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tiny", "--slo", "p99=5"], "--slo p99=5"),
        (["tiny", "--slo", "p99=5ms", "--objective", "latency"], "remove --objective latency"),
        (["tiny", "--slo", "p99=5ms", "--client-elsewhere"], "remove --client-elsewhere"),
        (["tiny", "--plot", "front.txt"], "--plot front.txt"),
        (["nothing"], "nothing"),
        (["tiny", "--objective", "beauty"], "--objective beauty"),
        (["tiny", "--runtimes", "tvm"], "--runtimes tvm: give one of onnxruntime, openvino"),
        (["tiny", "--precisions", "fp32,fp8"], "--precisions fp8: give one of"),
        (["tiny", "--calibrate", "digits"], "--calibrate digits: is for int8"),
        (["tiny", "--precisions", "bf16", "--runtimes", "onnxruntime"], "no bfloat16 convolution on the CPU"),
        (["tiny", "--duration", "0"], "--duration 0"),
        (["tiny", "--cores", "9999"], "--cores 9999"),
        (["tiny", "--url", "10.255.255.1:8001"], "--cores is missing"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_line(
    triton: RunningTriton, resx: Callable[..., Finished], arguments: list[str], words: str
) -> None:
    done = resx("tune", *arguments, f"--repository={triton.repository.root}")
    assert done.code == 2
    assert words in done.err
    assert len(done.err.strip().splitlines()) == 1


def named(number: int) -> Setting:
    return BEFORE.model_copy(update={"delay_us": number})


@pytest.mark.parametrize(
    ("objective", "chosen"),
    [("balanced", 1), ("throughput", 2), ("latency", 3)],
)
def test_only_throughput_takes_a_setting_that_doubles_a_lone_request(objective: Objective, chosen: int) -> None:
    """Before: 100/s, 42 ms; within 1.2 times the quickest: 120/s, 47 ms; two of one thread: 150/s, 75 ms; 40 ms."""
    figures = {0: (100.0, 42.0), 1: (120.0, 47.0), 2: (150.0, 75.0), 3: (90.0, 40.0)}

    def run(setting: Setting, seconds: float) -> Trial:
        per_s, single_ms = figures[setting.delay_us]
        return trial(setting, seconds, per_s=per_s, single_ms=single_ms)

    assert halve([named(number) for number in figures], BEFORE, run, objective, 1.0, 0).delay_us == chosen


def test_the_quickest_setting_of_an_earlier_stage_counts() -> None:
    def run(setting: Setting, seconds: float) -> Trial:
        return trial(setting, seconds, per_s=100.0 + setting.delay_us, single_ms=40.0 + 5 * setting.delay_us)

    settings = [named(number) for number in range(3)]
    assert halve(settings, BEFORE, run, "balanced", 1.0, 0).delay_us == 1
    assert halve(settings, BEFORE, run, "balanced", 1.0, 0, quickest_ms=36.0).delay_us == 0


def test_a_pair_counts_a_setting_that_slows_a_lone_request_down_as_nothing() -> None:
    slow = trial(BEFORE, per_s=150.0, single_ms=75.0)
    assert worth(slow, 40.0, "balanced") == 0.0
    assert worth(slow, 62.6, "balanced") == worth(slow, 40.0, "throughput") == 150.0
    assert worth(slow, 40.0, "latency") == 75.0


def test_the_shortest_lone_request_is_of_a_valid_trial_and_a_settings_last() -> None:
    trials = [trial(named(1), single_ms=3.0), trial(named(1), single_ms=5.0), trial(named(2), single_ms=1.0, why="no")]
    assert shortest_ms(trials) == 5.0
    assert shortest_ms([]) == float("inf")
