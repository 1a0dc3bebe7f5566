"""Where images come from: folders, globs, lists, buckets, Parquet."""
