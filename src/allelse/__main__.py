"""``python -m allelse``: the command line, where its script is not on the path."""

from allelse.cli.main import main

main()
