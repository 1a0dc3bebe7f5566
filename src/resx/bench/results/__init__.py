"""What came of a load: samples, percentiles, verdicts, the result."""
