"""The command line: verbs and options in, one screen of text and an exit code out. All the science stands in the study file.

Exit codes: 0 done, 1 a run failed, 2 the user's mistake (one line on stderr), 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from allelse.cli.main import main

__all__ = ["main"]
