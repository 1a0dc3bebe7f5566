"""One client for any Triton, over http or grpc, and what goes through it."""
