"""What autoscalers ask Prometheus."""

from resx.serving.clusters.autoscaling import queue_seconds


def test_the_time_in_the_queue_is_a_number_where_nothing_is_asked() -> None:
    """0 / 0 would be NaN, by which an autoscaler keeps every pod for ever."""
    queue = 'sum(rate(nv_inference_queue_duration_us{model="m"}[1m]))'
    success = 'sum(rate(nv_inference_request_success{model="m"}[1m]))'

    assert queue_seconds('model="m"', "") == f"1e-6 * {queue} / clamp_min({success}, 1e-9)"
    assert queue_seconds('model="m"', "pod") == f"1e-6 * {queue} by (pod) / clamp_min({success} by (pod), 1e-9)"
