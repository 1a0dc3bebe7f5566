"""One life of the embedded server: start, watch, recover, drain."""
