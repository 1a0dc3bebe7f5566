"""Runs and versions as others get them: sent to the Hugging Face Hub or a folder, fetched from there, copied over."""
