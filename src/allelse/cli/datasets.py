"""``allelse data``: the commands about data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The data sets: what there is, download, import.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def data_list() -> None:
    """The data sets, and whether they are on this machine."""
    from allelse import data
    from allelse.cli import tables

    tables.show_data(data.catalogue())


@app.command("fetch", short_help="Download a data set and keep it.")
def data_fetch(name: Annotated[str, typer.Argument(help="cifar10 or cifar100.")]) -> None:
    """Download a data set from its official place, verify it, and keep it."""
    from allelse import data

    data.fetch(name)
    dataset = data.load(name)
    print(f"{name}: {len(dataset.train_labels)} + {len(dataset.test_labels)} images, fingerprint {dataset.fingerprint}")


@app.command("import", short_help="Take a data set that is on this machine.")
def data_import(
    name: Annotated[str, typer.Argument(help="cifar10 or cifar100.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Class folders, an .npz, an official archive or its folder.")],
) -> None:
    """Take a data set that is already on this machine, check it, and keep it."""
    from allelse import data

    kept = data.import_images(name, path)
    dataset = data.load(name)
    print(
        f"{name}: {len(dataset.train_labels)} + {len(dataset.test_labels)} images, fingerprint {dataset.fingerprint}, in {kept}"
    )
