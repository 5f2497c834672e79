"""Random streams that nothing can shift: (seed, purpose, keys) in, one NumPy generator out.

Invariant 1 rests on this room. Every draw of a run comes from a stream of its own, keyed by what it is for (the weights of a
layer by name and shape, the order of an epoch, the augmentation of an epoch), so no arm can disturb what another arm draws.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, purpose: str, *keys: str | int) -> np.random.Generator:
    """The generator of one purpose.

    Arguments:
        seed: the replication.
        purpose: what is drawn: ``init``, ``dropout``, ``order``, ``augment``, ``subset``, ``validation``; of no seed,
            ``split`` for test images where a data set has none, and ``evaluate`` for the order in which images are scored;
            or ``check`` for the images and weights that parts of the user's own are tried on.
        keys: what tells draws of this purpose apart: a layer's name and shape, or an epoch.

    Returns:
        a Philox generator whose 128-bit key is a SHA-256 of the arguments, so that streams do not overlap.
    """
    text = "\x1f".join([str(int(seed)), purpose, *map(str, keys)])
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    return np.random.Generator(np.random.Philox(key=key))
