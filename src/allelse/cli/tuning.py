"""What the commands print about a number that is tuned before the comparison: a plan or a store in, text or a frame out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console

from allelse.cli.progress import time_of
from allelse.design import arm_text
from allelse.errors import counted
from allelse.stats.sentences import number
from allelse.store import Store
from allelse.study import Tune
from allelse.tuning import Tuning

if TYPE_CHECKING:
    import pandas as pd

    from allelse.plan import Plan  # brings torch along


def show_plan(console: Console, tune: Tune, plan: Plan) -> None:
    """What will be tried, on how many runs."""
    runs = sum(len(planned.pack.runs) for planned in plan.packs)
    each = f"for each {' and '.join(tune.per)}" if tune.per else "once for all arms"
    values = ", ".join(f"{value:g}" for value in sorted(tune.values))
    epochs = f" of {counted(tune.epochs, 'epoch')}" if tune.epochs else ""
    console.print(f"\nTuned before the comparison, on validation images: {tune.key}")
    console.print(f"  {each}, one of {values} by {tune.metric} of the last epoch")
    seeds = "1 seed of its own" if tune.seeds == 1 else f"{tune.seeds} seeds of their own"
    console.print(f"  {counted(runs, 'more run')}{epochs}, with {seeds}: {time_of(plan, 'about')}")


def show(console: Console, store: Store) -> None:
    """What was chosen, from what, and at which cost; or how far the tuning is. Nothing for a study that tunes nothing."""
    part = store.tuning_part
    if part is None:
        return
    if store.tuning is None:
        statuses = list(part.status_from_run().values())
        shown = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
        console.print(f"{counted(len(statuses), 'tuning run')} before the comparison" + (f": {shown}" if shown else ""))
        return
    tuning = Tuning.from_json(store.tuning)
    console.print(f"\n{tuning.budget()}")
    for choice in tuning.choices:
        means = (
            f"{one.value:g}: {'diverged' if one.mean is None else number(one.mean, tuning.metric)}" for one in choice.tried
        )
        console.print(f"  {arm_text(choice.levels) or 'all arms'}: {choice.value:g} ({', '.join(means)})")
    for warning in tuning.warnings():
        console.print(f"warning: {warning}")


def rows(store: Store, of: Callable[[Store], pd.DataFrame]) -> pd.DataFrame:
    """What ``of`` makes of the runs; where a number is tuned, the tuning runs come first, with what each run is for and its
    number."""
    import pandas as pd

    frame, part = of(store), store.tuning_part
    if part is None:
        return frame
    if store.tuning and len(frame):
        tuning = Tuning.from_json(store.tuning)
        value_from_run = {run.id: tuning.choice_for(run.arm).value for run in store.outcomes()}
        frame.insert(frame.columns.get_loc("seed"), tuning.key, frame["run"].map(value_from_run))
    parts = []
    for one, purpose in ((of(part), "tuning"), (frame, "comparison")):
        if len(one):
            one.insert(1, "purpose", purpose)
            parts.append(one.astype({"accuracy": float}) if "accuracy" in one else one)
    return pd.concat(parts, ignore_index=True) if parts else frame
