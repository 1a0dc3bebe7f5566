"""Bulk scoring: every image of a source through a published model, in rows that are written exactly once."""
