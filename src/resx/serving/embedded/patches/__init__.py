"""What resx changes in the embedded server, a file for each change, with the reason."""
