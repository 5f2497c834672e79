"""Fuzzing: bad input for every parser of allelse. Read ``mutations`` (how input is spoilt), ``trials`` (what counts as a
fault), ``studies``, ``datasets``, ``cifar`` and ``stores`` (the parsers), ``__main__`` (the command)."""
