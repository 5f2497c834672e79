"""allelse: does swapping this part of a neural network matter, all else equal?

``load`` a study, ``run`` it, and read its ``Results``. Importing allelse imports none of its rooms before they are used.
"""

import os
from typing import TYPE_CHECKING, Any

# Before torch is imported: its OpenMP threads else spin for milliseconds wherever one waits for another. On a machine that
# does anything besides, that was measured to make small networks tens of times slower. Two cores, tiny networks, a step in
# ms at a spin of 1,000, 30,000 and 100,000: 8.2, 6.2, 5.8 when quiet, 16.9, 12.5, 19.1 beside two busy processes.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # the same bits from the same products on CUDA

__version__ = "0.1.0"
__all__ = ["AllelseError", "Results", "__version__", "explain", "load", "run"]

if TYPE_CHECKING:
    from allelse.api import Results, explain, load, run
    from allelse.errors import AllelseError


def __getattr__(name: str) -> Any:
    if name == "AllelseError":
        from allelse.errors import AllelseError

        return AllelseError
    if name in __all__:
        from allelse import api

        return getattr(api, name)
    raise AttributeError(f"module 'allelse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
