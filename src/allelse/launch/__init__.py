"""Launching: a study and an output folder in, every run trained and stored. Nothing of science is decided here."""

from allelse.launch.local import Computing, Outcome, Watcher, dataset_of, plan_study, run_study

__all__ = ["Computing", "Outcome", "Watcher", "dataset_of", "plan_study", "run_study"]
