"""Studies: a packaged name or a TOML file, with what the command line changes, in; a checked ``Study`` out.

Read ``file`` (what a study file may say), ``factors`` and ``arms`` (how levels become recipes), ``whole`` (the study),
``declared`` (what claims and conditions may name), ``loading`` (from the file to the study), ``tuning`` (the arms of the
tuning runs); ``changes`` sets keys of raw recipes.
"""

from allelse.study.arms import Arm
from allelse.study.declared import further_claims
from allelse.study.file import Tune, packaged_studies
from allelse.study.loading import load, versions
from allelse.study.tuning import tuned, tuning_study
from allelse.study.whole import Study

__all__ = ["Arm", "Study", "Tune", "further_claims", "load", "packaged_studies", "tuned", "tuning_study", "versions"]
