"""The page: an output folder in; ``report.html``, ``report.md`` and ``figures/`` in it, out.

Every text comes from a study file or a result and is untrusted: jinja2 escapes all of it, and only the figures, whose text is
drawn as paths, are put in as they are. The page runs no script and loads nothing, which its content policy states.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from allelse import store
from allelse.errors import StoreError, command, inert
from allelse.report.contents import Contents, contents
from allelse.report.figures import Picture, picture, put, write_pictures
from allelse.report.findings import gather
from allelse.report.markdown import markdown
from allelse.report.style import letters_without_a_font

TEMPLATE = "report.html.jinja"


def write_report(folder: Path, tell: Callable[[str], None] = lambda line: None) -> Path:
    """Write both pages and the figures into ``folder``; the path of the HTML file.

    The same store gives the same bytes where fonts are the same. ``tell`` is given a line where a name has letters that no
    font here has.

    Raises:
        StoreError: no study was run there, or the files cannot be written.
    """
    with store.read(folder) as opened:
        findings = gather(opened)
    told = contents(findings)
    if letters := letters_without_a_font(" ".join(map(findings.arm_name, findings.arms))):
        tell(
            f"no font here has {', '.join(letters[:10])}{', …' * (len(letters) > 10)}: figures spell Korean out and show boxes "
            f"for other letters; install a font, as Noto Sans CJK, then {command('report', folder)}"
        )
    folder = Path(os.path.expanduser(folder))
    pictures = pictures_of(told)
    try:
        write_pictures(pictures, folder / "figures")
        put(folder / "report.md", markdown(told).encode())
        return put(folder / "report.html", html(told, pictures).encode())
    except OSError as error:
        where, why = error.filename2 or error.filename or folder, error.strerror or error
        raise StoreError(
            f"{where}: the report cannot be written: {why}; free space, mend its rights, or move what is there away"
        ) from None


def pictures_of(told: Contents) -> list[Picture]:
    """Every figure of the report, drawn."""
    return [picture(figure) for figure in (*told.figures, *told.mechanism_figures)]


def html(told: Contents, pictures: Sequence[Picture]) -> str:
    """The whole page, with the pictures in it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else inert(str(value)),
    )
    svg_from_name = {one.name: Markup(one.inline) for one in pictures}  # noqa: S704  (text in it is drawn as paths)
    return environment.get_template(TEMPLATE).render(told=told, svg_from_name=svg_from_name) + "\n"
