"""How fast a study trains, beside everyone else on the same work. ``python -m benchmarks.speed --help``.

Read ``grid`` (what is trained), ``floor`` (what no way can beat), ``feed``, ``networks`` and ``loops`` (the others, in plain
torch), ``ours`` (allelse), ``worker`` (a process a way), ``suite`` (turns, limits, the JSON file), ``reading``, ``aims`` and
``page`` (the Markdown).
"""
