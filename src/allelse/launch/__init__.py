"""Launching: a study and an output folder in, every run trained and stored. Nothing of science is decided here."""

from allelse.launch.local import Computing, Outcome, Watcher, dataset_of, plan_study, run_study
from allelse.launch.parts import CheckedPart, check_parts

__all__ = ["CheckedPart", "Computing", "Outcome", "Watcher", "check_parts", "dataset_of", "plan_study", "run_study"]
