"""What resx is installed and run with, pinned by hash: locks, container images, and what reads them. Never shipped."""
