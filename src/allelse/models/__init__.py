"""Networks for R replicas at once: a recipe's model, an image shape and a number of classes in, a ``Network`` out."""

from allelse.models.anatomy import LayerRow, layer_rows, tells_images_apart
from allelse.models.network import (
    Layer,
    Network,
    build_network,
    centred_biases,
    initialise,
    layer_table,
    own_parts,
    stacked_parameters,
    way_of_filling,
)

__all__ = [
    "Layer",
    "LayerRow",
    "Network",
    "build_network",
    "centred_biases",
    "initialise",
    "layer_rows",
    "layer_table",
    "own_parts",
    "stacked_parameters",
    "tells_images_apart",
    "way_of_filling",
]
