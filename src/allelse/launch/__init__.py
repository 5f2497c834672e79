"""Launching: a study and an output folder in, every run trained and stored. Nothing of science is decided here.

``orchestrator`` hands packs to a ``crew``: this process (``local``), processes of this machine (``processes``) or a Ray cluster
(``cluster``); ``machines`` says which.
"""

from allelse.launch.local import dataset_of
from allelse.launch.machines import Machines, crew
from allelse.launch.orchestrator import Computing, Outcome, plan_study, run_study
from allelse.launch.parts import CheckedPart, check_parts
from allelse.launch.watcher import Watcher

__all__ = [
    "CheckedPart",
    "Computing",
    "Machines",
    "Outcome",
    "Watcher",
    "check_parts",
    "crew",
    "dataset_of",
    "plan_study",
    "run_study",
]
