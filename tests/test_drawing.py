"""Drawing: what stands on a canvas, measured there."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from report_support import result, write_store

from allelse import store
from allelse.report import drawing, gather
from allelse.report.accuracy import three_ways
from allelse.report.contents import contents
from allelse.report.shapes import Mark, Row, Rows, Words
from allelse.report.style import style


def test_what_has_no_finite_value_counts_in_no_distance_and_no_number_of_seeds(tmp_path):
    def spoilt(spec, accuracy):
        made = result(spec, accuracy)
        lost = float("nan") if spec.arm["model.activation"] == "relu" else accuracy + 2.0
        return replace(made, metrics={**made.metrics, "accuracy_recalibrated": lost})

    with store.read(write_store(tmp_path, result_of=spoilt)) as opened:
        findings = gather(opened)
    words = three_ways(findings).words
    assert words.alt.startswith("Widest distance between recalibrated and running statistics: +2.00 points in sigmoid")
    assert "n\u00a0=\u00a05 seeds a mark, none in 3 marks" in words.caption
    notes = contents(findings).mechanism_notes
    assert notes[0] == (
        "No seed has both accuracies, that with running and that with recalibrated statistics, as finite numbers in "
        "relu, depth 1, relu, depth 2, relu, depth 4."
    )


def test_grid_lines_of_rows_stand_at_the_ticks_and_leave_the_labels_alone():
    rows = tuple(
        Row(
            f"relu − sigmoid, depth {depth}",
            (Mark("", 0, 2.0 * depth, depth, 3.0 * depth, (1.5 * depth, 2.5 * depth)),) * marks,
        )
        for depth, marks in ((1, 1), (4, 3), (8, 1))
    )
    with style():
        canvas = drawing.draw(Rows(Words("differences", "title", "caption", "alt"), rows, "x", zero=True))
        drawer = FigureCanvasAgg(canvas)
        drawer.draw()
        [axes] = canvas.axes
        lines = [
            axes.transData.transform(segment)
            for one in axes.collections
            if isinstance(one, LineCollection)
            for segment in one.get_segments()
        ]
        labels = [text.get_window_extent(drawer.get_renderer()) for text in axes.texts]
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert len(ticks) > 3
    assert len(lines) == len(ticks) * len(rows)
    assert {round(x) for (x, _), _ in lines} == {round(axes.transData.transform((tick, 0))[0]) for tick in ticks}
    for (x, one), (_, other) in lines:
        assert not any(box.x0 < x < box.x1 and max(one, other) > box.y0 and min(one, other) < box.y1 for box in labels)
