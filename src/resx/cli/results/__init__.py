"""What `--json` prints, by command: types that mypy holds the commands to, and the JSON schema made of them."""
