"""Progress that survives: what a running study writes beside its store, read by whoever asks from elsewhere.

``journal`` is the small file in the output folder, ``estimate`` the time left. The store says what is finished and is the
only truth of that; the journal says what is under way, and nothing depends on it.
"""

from allelse.progress.estimate import TimeLeft
from allelse.progress.journal import FILE, Journal, Training, read, shown, write

__all__ = ["FILE", "Journal", "TimeLeft", "Training", "read", "shown", "write"]
