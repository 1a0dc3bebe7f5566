"""The pinned Triton on this machine: fetched, unpacked, completed with libraries, backends and Python."""
