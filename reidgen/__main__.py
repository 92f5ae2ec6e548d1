"""`python -m reidgen` is the command `reidgen`."""

from reidgen.cli import main

main()
