"""What messages about study files say again and again, and the message that a text gets."""

# ruff: noqa: E501 (a message stands on one line)

import pytest

from allelse import study
from allelse.errors import StudyError

COMPARED = "what is compared stands under [factors] in a study file"
LEVELS = '"model.activation" = ["sigmoid", "relu"]'
OF_LEVELS = "allowed: a list of levels, a table of named levels with the keys each one sets, or { when = …, levels = … }"
RECIPE_KEYS = (
    "dataset, image_size, train_per_class, validation_per_class, epochs, updates, batch_size, standardize, augment, optimizer, "
    "schedule, averaging, max_grad_norm, loss, label_smoothing, precision, model"
)
QUICK_KEYS = f"seeds, factors, exclude, adjust, tune, {RECIPE_KEYS}"
NORMS = "batch, ghost, renorm, group, layer, instance, rms, frn, evonorm-s0, none"
MODEL_KEYS = (
    "block, width, depth, bias, weight_standardization, norm, activation, dropout, dropout_of, residual, init, family, conv, stem, "
    "kernel, pool, pool_kind, head"
)
OPTIMIZERS = "sgd, adam, adamw, nadam, radam, adamax, rmsprop, adagrad, adadelta, asgd, rprop"
ACTIVATIONS = (
    "sigmoid, tanh, relu, silu, mish, identity, relu6, selu, softsign, tanhshrink, logsigmoid, hardsigmoid, hardswish, "
    "squared_relu, leaky_relu, prelu, elu, celu, gelu, softplus, squareplus, hardtanh, softshrink, hardshrink, threshold"
)


def message(text: str | bytes, **options) -> str:
    """What ``study.load`` says about a file ``study.toml`` in the working folder."""
    with open("study.toml", "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StudyError) as caught:
        study.load("study.toml", **options)
    return str(caught.value)
