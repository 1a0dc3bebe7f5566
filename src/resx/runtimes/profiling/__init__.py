"""Where a model's time goes: the runtimes' own counters, by the layers and blocks of the file."""
