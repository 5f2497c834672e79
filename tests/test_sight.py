"""Networks that are blind by construction are refused, and no others are."""

from __future__ import annotations

import pytest
from study_support import PLAIN, write_study

from allelse import data, study
from allelse.errors import StudyError
from allelse.fit import check_arm


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


BLIND = [
    *(["block='conv-norm'", f"pool={pool}"] for pool in ([], [1])),
    ["block='conv-act-norm'"],
    ["block='conv-norm-act'", "activation='identity'"],
    ["block='conv-norm-act'", "activation={ name = 'leaky_relu', slope = 1.0 }"],
    ["block='conv-norm'", "pool=[2]", "pool_kind='avg'"],
    ["block='conv-norm'", "pool=[2]", "pool_kind='stride'"],
    ["block='conv-act-norm'", "head={ name = 'flatten', pool = 8 }"],
    ["block='conv-act-norm'", "head={ norm = true, hidden = [4] }"],
    ["block='conv-act-norm-conv'", "kernel=1"],
    ["block='conv-norm'", "stem={ width = 4, norm = true }", "residual=true"],
]
SEEING = [
    ["block='conv-norm-act'"],
    ["block='conv-norm-act'", "activation='sigmoid'", "head={ norm = true, activation = true }"],
    ["block='conv-norm'", "pool=[2]"],
    ["block='conv-act-norm'", "residual=true"],
    ["block='conv-act-add-norm-act'", "residual=true"],
    ["block='conv-act-norm'", "head='flatten'"],
    ["block='conv-act-norm'", "head={ name = 'flatten', pool = 4 }"],
    ["block='conv-act-norm-conv'"],
]


@pytest.mark.parametrize("norm", ["'instance'", "{ name = 'group', channels_per_group = 1 }"])
@pytest.mark.parametrize(("changes", "blind"), [*((one, True) for one in BLIND), *((one, False) for one in SEEING)], ids=str)
def test_a_network_to_which_all_images_are_alike_is_refused(tmp_path, digits, changes, blind, norm):
    file = write_study(tmp_path, PLAIN)

    def arm(norm):
        return study.load(file, changes=[f"model.{change}" for change in (*changes, f"norm={norm}", "depth=2")]).arms[-1]

    if blind:
        with pytest.raises(StudyError, match="no network could tell two images apart"):
            check_arm(arm(norm), digits)
    else:
        check_arm(arm(norm), digits)
    for other in ("'batch'", "'layer'", "{ name = 'group', groups = 2 }"):
        check_arm(arm(other), digits)
