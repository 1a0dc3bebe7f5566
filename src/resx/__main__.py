"""`python -m resx` is `resx`."""

from resx.cli.main import main

main()
