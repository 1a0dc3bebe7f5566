"""`python -m resx` is `resx`."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the working folder, which the installed `resx` takes no modules from either

from resx.cli.main import main

main()
