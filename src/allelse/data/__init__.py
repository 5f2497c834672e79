"""The data room: the name of a data set in, uint8 images with labels and a fingerprint out; NumPy only, never torch.

Read in this order: ``catalogue`` (names), ``dataset``, ``sources`` (where CIFAR is found), ``cifar``, ``folder``, ``npz``,
``split``. Environment: ``ALLELSE_DATA`` is the cache folder, ``ALLELSE_CIFAR_URL`` a mirror of the official archives.
"""

from allelse.data.catalogue import Entry, catalogue, load, shape
from allelse.data.dataset import Dataset
from allelse.data.fetch import fetch
from allelse.data.sources import import_images
from allelse.data.split import split

__all__ = ["Dataset", "Entry", "catalogue", "fetch", "import_images", "load", "shape", "split"]
