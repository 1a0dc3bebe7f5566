"""Runs and versions as others get them: sent to the Hugging Face Hub or a folder, and fetched from there."""
