"""How onnxruntime's session over a version is set up, as config.pbtxt says: in the server, and wherever else.

The backend `onnxruntime` inside Triton imports this file from beside itself, and `resx bench` and `resx predict` as a
module of resx. So it imports neither resx nor anything of the server; onnxruntime on first use.

What of config.pbtxt is honoured, in the C++ backend's words (onnxruntime_backend, README and onnxruntime.cc):

    optimization.graph.level             -1 basic, 0 all, 1 extended, 2 none
    intra_op_thread_count                0: the cores, divided by the instances
    inter_op_thread_count, execution_mode (0 sequential, 1 parallel)
    enable_mem_arena, enable_mem_pattern (0, 1, true, false)
    memory.enable_memory_arena_shrinkage as `cpu:0`
    session.*                            any entry of onnxruntime's session configuration
    session.intra_op.spin_duration_us    how long a thread that ran out of work waits busily; 0: not at all
    instance_group, execution_accelerators   as `execution_providers.py` says

Two things differ. Threads spin for `config_values.SPIN_US` unless the configuration says otherwise (`spin_entries`),
where onnxruntime's own spin for many milliseconds, in which they take the core that the next request's thread needs.
And without a thread count the instances share the cores evenly, where each of the C++ backend's takes all of them.
"""

from typing import Any

from config_values import (
    MAX_SPIN_US,
    SILENT,
    SPIN_DURATION,
    SPIN_US,
    SPINNING,
    Host,
    count,
    fair_share,
    flag,
    text,
)

BOUNDED_SINCE = (1, 26)
"""onnxruntime's version that knows SPIN_DURATION; an older one takes the entry and spins without a bound."""


def session_options(config: dict[str, Any], host: Host) -> Any:
    """Return onnxruntime's SessionOptions.

    Raises:
        ValueError: config.pbtxt has a value that cannot be.
    """
    import onnxruntime

    # cuDNN reports every plan that it cannot make through this logger, 50 lines for each new shape of resnet50.
    onnxruntime.set_default_logger_severity(SILENT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = host.log_severity
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = {
        -1: levels.ORT_ENABLE_BASIC,
        0: levels.ORT_ENABLE_ALL,
        1: levels.ORT_ENABLE_EXTENDED,
        2: levels.ORT_DISABLE_ALL,
    }[_graph_level(config)]
    options.intra_op_num_threads = count(config, "intra_op_thread_count") or fair_share(config, host.cores)
    options.inter_op_num_threads = count(config, "inter_op_thread_count") or 1
    if flag(config, "execution_mode", default=False):
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = flag(config, "enable_mem_arena", default=True)
    options.enable_mem_pattern = flag(config, "enable_mem_pattern", default=True)
    own = {SPINNING, SPIN_DURATION}
    entries = {key: text(config, key) for key in config.get("parameters", {}) if key.startswith("session.")}
    entries = {key: value for key, value in entries.items() if key not in own}
    for key, value in (entries | spin_entries(config, onnxruntime.__version__)).items():
        options.add_session_config_entry(key, value)
    return options


def spin_entries(config: dict[str, Any], version: str) -> dict[str, str]:
    """Return what a session is told of spinning, by onnxruntime's version.

    Without a word in the configuration, or with a duration, it is bounded; an onnxruntime that cannot keep to a bound
    does not spin at all. `allow_spinning` of 1 alone is without a bound, as it is to onnxruntime; 0 is never.

    Raises:
        ValueError: config.pbtxt has a value that cannot be.
    """
    asked = text(config, SPIN_DURATION)
    duration_us = count(config, SPIN_DURATION, MAX_SPIN_US, zero="0") if asked else SPIN_US
    if not flag(config, SPINNING, default=True):
        return {SPINNING: "0"}
    if not asked and text(config, SPINNING):
        return {SPINNING: "1"}
    if not duration_us or tuple(map(int, version.split(".")[:2])) < BOUNDED_SINCE:
        return {SPINNING: "0"}
    return {SPINNING: "1", SPIN_DURATION: str(duration_us)}


def run_options(config: dict[str, Any], kind: str = "CPU", device: int = 0) -> Any:
    """Return the RunOptions of every run, None for onnxruntime's own.

    Raises:
        ValueError: config.pbtxt has a value that cannot be.
    """
    key = "memory.enable_memory_arena_shrinkage"
    if not (devices := text(config, key)):
        return None
    import onnxruntime

    known = [device for device in devices.split(";") if device]
    if not known or any(device not in ("cpu:0", "gpu:0") for device in known):
        raise ValueError(f"parameter {key}={devices!r} in config.pbtxt: give cpu:0, or cpu:0;gpu:0")
    if not flag(config, "enable_mem_arena", default=True):
        raise ValueError(f"parameter {key} in config.pbtxt: has no effect, because enable_mem_arena is off")
    options = onnxruntime.RunOptions()
    options.add_run_config_entry(key, f"cpu:0;gpu:{device}" if kind == "GPU" and "gpu:0" in known else "cpu:0")
    return options


def _graph_level(config: dict[str, Any]) -> int:
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    if level not in (-1, 0, 1, 2):
        raise ValueError(
            f"optimization.graph.level: {level} in config.pbtxt: give -1 (basic), 0 (all), 1 (extended), 2 (none)"
        )
    return level
