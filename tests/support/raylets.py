"""A Ray cluster of several nodes on this machine, in a process of its own: a head that computes nothing, and raylets.

python tests/support/raylets.py 4       prints the address; kills one raylet per line that it reads; ends with stdin
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

_STORE_BYTES = 80 * 2**20
"""Of each node, in /dev/shm; Ray takes no less than 75 MiB."""
_HEALTH_CHECK_MS = 1000
"""A node is dead after five; Ray's own default is three times that."""


def main() -> None:
    """Start, obey, stop."""
    head = {
        "num_cpus": 0,
        "object_store_memory": _STORE_BYTES,
        "include_dashboard": False,
        "_system_config": {"health_check_period_ms": _HEALTH_CHECK_MS},
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [
            cluster.add_node(wait=False, num_cpus=1, object_store_memory=_STORE_BYTES) for _ in range(int(sys.argv[1]))
        ]
        cluster.wait_for_nodes(timeout=600)
        sys.stdout.write(f"address {cluster.address}\n")
        sys.stdout.flush()
        for _ in sys.stdin:
            cluster.remove_node(nodes.pop(), allow_graceful=False)
            sys.stdout.write("killed\n")
            sys.stdout.flush()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
