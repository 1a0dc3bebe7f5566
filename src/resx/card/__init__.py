"""What a published version is, and the proof of it. Needs no torch."""
