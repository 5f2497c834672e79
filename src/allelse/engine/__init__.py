"""Training: a pack, a data set and a device in, one ``RunResult`` a run out. Knows nothing of studies, plans or stores."""

from allelse.engine.device import compute_dtype, describe_device, find_device
from allelse.engine.loop import train_pack
from allelse.engine.losses import loss_packing
from allelse.engine.measure import images_per_second
from allelse.engine.own import optimizer_packing
from allelse.engine.progress import Progress
from allelse.engine.ways import ways

__all__ = [
    "Progress",
    "compute_dtype",
    "describe_device",
    "find_device",
    "images_per_second",
    "loss_packing",
    "optimizer_packing",
    "train_pack",
    "ways",
]
