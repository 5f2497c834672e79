"""allelse: does swapping this part of a neural network matter, all else equal?"""

__version__ = "0.1.0"
