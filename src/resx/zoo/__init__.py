"""The networks: what they are (spec, catalog), how they compute (one file a family), where weights come from."""
