"""The store: the one place where results are kept. A study's definition, its plan and ``RunResult``s in; runs and tables out.

An output folder holds ``study.sqlite`` (all of it, one file), ``checkpoints/`` (packs under way), ``lock`` and, while a
process writes, ``holder.json``. One process writes, any number read. The plan is stored before the first step, and each pack's
results in one transaction that is on the disk when it ends, so whatever is killed, fills up or loses power at whatever moment,
the folder holds whole results only. No path stands in it, so it may be moved, renamed, and copied to another machine.

The runs of a study that tunes a number first stand apart from those of its comparison, with a plan of their own
(``Store.tuning_part``); what they chose is stored before the comparison is planned.

Read ``folder`` (opening), ``opened`` (what an open folder can do), ``schema`` (the file), ``forms`` (nothing is trusted that is
read), ``faults`` (what the disk and SQLite say, as one line with a remedy), ``holder`` (the only writer), ``merging``.

**Changes of the format.** ``FORMAT`` is written into the file (``PRAGMA user_version``). It goes up when an older version would
misread or spoil a new file, and then only; older versions refuse a higher one. A file of every format before is read as it is,
and brought up to date by the next writer in one transaction (``schema.prepare``). A key that is added to a result, a plan or a
definition needs no new format: readers pass over keys of results that they do not know, and fill in those that early versions
did not write (``forms``). A kept store of each format, and of each version that wrote other keys, lies in ``tests/kept/``; a
change adds one and takes none away.

1. the first
2. a seal in each row, which tells flipped bits; epochs and probes in a table of their own
"""

from allelse.store.definitions import words_of as words_of
from allelse.store.folder import read as read
from allelse.store.folder import write as write
from allelse.store.holder import writer as writer
from allelse.store.merging import merge as merge
from allelse.store.opened import FINAL as FINAL
from allelse.store.opened import Store as Store
from allelse.store.opened import StoredRun as StoredRun
from allelse.store.pairs import pairing as pairing
from allelse.store.schema import FILE as FILE
from allelse.store.schema import FORMAT as FORMAT
