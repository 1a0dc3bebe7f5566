"""The options of the commands: one spelling, one help text."""
