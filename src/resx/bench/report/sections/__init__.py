"""Parts of a benchmark's report, as HTML."""
