"""The options of the commands, a file for each group: one spelling, one help text, one panel of the help."""
