"""Figures as plain data against numbers worked out here, which figures a study gets, and the files that are written."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from math import isnan

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from report_support import CLAIMS, LAYERS, definition, result, write_store
from scipy import stats

from allelse import store
from allelse.report import compute_figures, drawing, gather, write_figures
from allelse.report.accuracy import accuracy, three_ways
from allelse.report.curves import learning_curves
from allelse.report.differences import differences
from allelse.report.figures import picture
from allelse.report.gradients import _short, gradients
from allelse.report.layout import choose, doubles, few, layout_of
from allelse.report.shapes import Chart, Mark, Row, Rows, Words
from allelse.report.style import style

ORDERS = {"order": ["Conv→BN→ReLU", "Conv→ReLU→BN"]}


def findings_of(folder, described=None, result_of=None, accuracy=None):
    made = {"accuracy": accuracy} if accuracy else {}
    with store.read(write_store(folder, described, result_of, **made)) as opened:
        return gather(opened)


def noisy(arm, seed):
    place = ("sigmoid", "relu").index(arm["model.activation"]) * 10 + arm["model.depth"]
    return 60.0 + place + float(np.random.default_rng([place, seed]).normal())


# ── which ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_numeric_factor_with_most_levels_goes_on_the_x_axis():
    layout = choose({"norm": ["a", "b"], "lr": [1, 2], "batch": [2, 4, 8], "seedless": [7]})
    assert (layout.x, layout.scale, layout.series, layout.panels) == ("batch", "log2", ("norm",), ("lr",))


def test_levels_that_double_get_a_logarithmic_axis():
    assert doubles([2, 4, 8])
    assert doubles([8, 2, 32])
    assert not doubles([1, 2, 3])
    assert not doubles([0, 1, 2])
    assert not doubles([2, 4])


@pytest.mark.parametrize(("scale", "expected"), [(None, "linear"), ("linear", "linear"), ("log2", "log2"), ("order", "log2")])
def test_an_axis_has_the_scale_of_the_trend_that_is_claimed_along_it(tmp_path, scale, expected):
    trend = {"id": "t", "says": "up", "kind": "trend", "along": "model.depth", "direction": "up", "scale": scale}
    claims = [{**trend, "where": {"model.activation": "relu"}}]
    assert layout_of(findings_of(tmp_path / "with", definition(claims=claims))).scale == expected
    assert layout_of(findings_of(tmp_path / "without", definition(claims=[]))).scale == "log2"


def test_truth_values_are_no_numbers_for_an_axis():
    assert choose({"affine": [True, False]}).x is None


def partly(tmp_path, groups):
    """Findings of a study whose group norm alone has groups, and whose norm 'none' has no arm at depth 1."""
    levels = [{"norm": "batch"}, *({"norm": "group", "groups": number} for number in groups), {"norm": "none"}]
    arms = [{**one, "depth": depth} for one in levels for depth in (1, 2, 4) if (one["norm"], depth) != ("none", 1)]
    described = definition(factors={"norm": ["batch", "group", "none"], "groups": groups, "depth": [1, 2, 4]}, claims=[])
    described["arms"] = [{"levels": arm, "recipe": {"epochs": 2, "arm": arm}} for arm in arms]
    return findings_of(tmp_path / f"{len(groups)}", described, accuracy=lambda arm, seed: 50.0 + arm["depth"] + seed / 10)


def test_a_factor_that_only_some_arms_have_makes_more_series_and_no_arm_is_made_up(tmp_path):
    findings = partly(tmp_path, [1, 4])
    figures = {figure.words.name: figure for figure in compute_figures(findings)}
    (panel,) = figures["accuracy"].panels
    assert [line.label for line in panel.lines] == ["norm batch", "norm group, groups 1", "norm group, groups 4", "norm none"]
    assert [line.x for line in panel.lines] == [(1.0, 2.0, 4.0)] * 3 + [(2.0, 4.0)]
    assert panel.lines[0].mean == pytest.approx((51.2, 52.2, 54.2))
    assert [[line.label for line in panel.lines if not line.faint] for panel in figures["learning-curves"].panels] == [
        ["norm batch", "norm group, groups 1", "norm group, groups 4"],
        *[["norm batch", "norm group, groups 1", "norm group, groups 4", "norm none"]] * 2,
    ]
    assert [row.label for row in figures["differences"].rows][:3] == [
        "norm group, groups 1 − norm batch, depth 1",
        "norm group, groups 1 − norm batch, depth 2",
        "norm group, groups 1 − norm batch, depth 4",
    ]
    assert len(figures["differences"].rows) == 8


def test_many_levels_of_such_a_factor_make_panels(tmp_path):
    findings = partly(tmp_path, [1, 2, 4, 8, 16, 32])
    (accuracy,) = [figure for figure in compute_figures(findings) if figure.words.name == "accuracy"]
    assert accuracy.panels[0].title == ""
    assert [line.label for line in accuracy.panels[0].lines] == ["norm batch", "norm none"]
    assert accuracy.panels[1].title == "groups 2"
    assert "panels are in the table of arms only" in accuracy.words.caption


def test_two_panels_of_arms_differ_in_one_factor(tmp_path):
    factors = {"norm": ["batch", "none"], "activation": ["sigmoid", "relu"], "depth": [1, 2, 4]}
    findings = findings_of(tmp_path, definition(factors=factors, claims=[]))
    for figure in (gradients(findings), learning_curves(findings)):
        titles = [panel.title for panel in figure.panels]
        assert titles == ["sigmoid, depth 1", "sigmoid, depth 4", "relu, depth 1", "relu, depth 4"]
        assert "4 of 6 panels" in figure.words.caption


def test_few_keeps_both_ends():
    assert few([1, 2, 3, 4, 5, 6, 7, 8]) == [1, 5, 8]
    assert few([1, 2]) == [1, 2]


def test_a_study_with_a_number_gets_lines_and_one_without_gets_rows(tmp_path):
    by_depth = compute_figures(findings_of(tmp_path / "depth"))
    assert [figure.words.name for figure in by_depth] == [
        "accuracy",
        "differences",
        "learning-curves",
        "three-ways",
        "gradients",
    ]
    assert isinstance(by_depth[0], Chart)
    by_order = compute_figures(findings_of(tmp_path / "order", definition(factors=ORDERS, claims=[])))
    assert isinstance(by_order[0], Rows)


def test_an_older_store_without_probes_or_second_evaluation_gets_fewer_figures(tmp_path):
    found = findings_of(
        tmp_path, result_of=lambda spec, value: result(spec, value, probes=False, metrics={"accuracy": value}, epochs=0)
    )
    assert [figure.words.name for figure in compute_figures(found)] == ["accuracy", "differences"]


# ── numbers ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_means_and_intervals_are_those_of_scipy_and_every_seed_is_there(tmp_path):
    chart = accuracy(findings_of(tmp_path, accuracy=noisy))
    (panel,) = chart.panels
    line = panel.lines[1]
    assert (line.label, line.x) == ("relu", (1.0, 2.0, 4.0))
    for place, depth in enumerate(line.x):
        seeds = [noisy({"model.activation": "relu", "model.depth": int(depth)}, seed) for seed in range(5)]
        assert [seed[place] for seed in line.seeds] == seeds
        low, high = stats.t.interval(0.95, 4, np.mean(seeds), stats.sem(seeds))
        assert (line.mean[place], line.low[place], line.high[place]) == pytest.approx((np.mean(seeds), low, high))


def test_differences_are_paired_by_seed_and_always_the_same_way_round(tmp_path):
    claims = [
        {"id": "w", "says": "s", "kind": "within", "a": {"model.activation": "relu"}, "b": {"model.activation": "sigmoid"},
         "where": {"model.depth": 4}, "margin": 2.5},
        {"id": "h", "says": "s", "kind": "higher", "a": {"model.activation": "sigmoid"}, "b": {"model.activation": "relu"},
         "where": {"model.depth": 1}},
    ]  # fmt: skip
    rows = differences(findings_of(tmp_path, definition(claims=claims), accuracy=noisy)).rows
    assert [(row.label, row.margin) for row in rows] == [("relu − sigmoid, depth 1", None), ("relu − sigmoid, depth 4", 2.5)]
    expected = [
        noisy({"model.activation": "relu", "model.depth": 4}, seed)
        - noisy({"model.activation": "sigmoid", "model.depth": 4}, seed)
        for seed in range(5)
    ]
    assert rows[1].marks[0].seeds == pytest.approx(expected)
    assert rows[1].marks[0].mean == pytest.approx(np.mean(expected))


def test_without_claims_the_levels_of_the_first_factor_are_compared(tmp_path):
    rows = differences(findings_of(tmp_path, definition(factors=ORDERS, claims=[]))).rows
    assert [row.label for row in rows] == ["Conv→ReLU→BN − Conv→BN→ReLU"]


def test_a_missing_seed_is_left_out_of_its_pair_alone(tmp_path):
    def one(spec, value):
        lost = spec.seed == 0 and spec.arm == {"model.activation": "relu", "model.depth": 1}
        return None if lost else result(spec, value)

    figure = differences(findings_of(tmp_path, definition(claims=CLAIMS[:1]), one))
    assert [len(row.marks[0].seeds) for row in figure.rows] == [4, 5, 5]
    assert "n = 4 to 5 seeds" in figure.words.caption.replace("\u00a0", " ")


def test_captions_say_how_many_arms_have_no_value_and_no_panel_is_thinned_out_for_that(tmp_path):
    def deepest_diverge(spec, value):
        return result(spec, value, status="diverged" if spec.arm["model.depth"] == 4 else "done")

    findings = findings_of(tmp_path, definition(claims=CLAIMS[:1]), deepest_diverge)
    for figure in (learning_curves(findings), gradients(findings)):
        caption = figure.words.caption.replace("\u00a0", " ")
        assert [panel.title for panel in figure.panels] == ["depth 1", "depth 2"]
        assert "n = 5 seeds an arm, none in 2 arms; " in caption
        assert "Drawn are" not in caption
    assert "n = 5 seeds an arm, none in 2 arms; " in accuracy(findings).words.caption.replace("\u00a0", " ")
    figure = differences(findings)
    assert "n = 5 seeds a pair, none in 1 pair; " in figure.words.caption.replace("\u00a0", " ")
    assert figure.words.alt.endswith("relu − sigmoid, depth 4: no value.")


def test_one_seed_has_a_mean_and_no_interval(tmp_path):
    line = accuracy(findings_of(tmp_path, definition(seeds=[0]))).panels[0].lines[0]
    assert all(map(isnan, line.low))
    assert not any(map(isnan, line.mean))


def test_learning_curves_are_means_over_seeds_on_both_splits(tmp_path):
    chart = learning_curves(findings_of(tmp_path, accuracy=lambda arm, seed: 50.0 + seed))
    test, train = chart.panels[0].lines[:2]
    assert (test.label, test.faint, train.faint) == ("sigmoid", False, True)
    assert test.mean == pytest.approx((42.0, 43.0))
    assert train.mean == pytest.approx((32.0, 33.0))
    assert len(test.seeds) == 5


def test_gradients_run_from_the_input_to_the_output_and_mean_geometrically(tmp_path):
    def one(spec, value):
        made = result(spec, value)
        rows = [{**row, "gradient_norm": row["gradient_norm"] * 10.0 ** (spec.seed - 2)} for row in made.probes]
        return type(made)(**{**vars(made), "probes": rows})

    chart = gradients(findings_of(tmp_path, result_of=one))
    last, first = chart.panels[0].lines[:2]
    assert first.mean == pytest.approx((0.1, 0.2, 0.3, 0.4))
    assert last.mean == pytest.approx((1.0, 1.1, 1.2, 1.3))
    assert [label for _, label in chart.ticks] == ["stem", "0", "1", "head"]
    assert len(last.x) == len(LAYERS)


def test_three_ways_leave_out_arms_where_all_agree(tmp_path):
    def one(spec, value):
        if spec.arm["model.activation"] == "relu":
            same = dict.fromkeys(("accuracy", "accuracy_running", "accuracy_recalibrated", "accuracy_batch"), value)
            return result(spec, value, metrics=same)
        return result(spec, value)

    chart = three_ways(findings_of(tmp_path, result_of=one))
    assert [panel.title for panel in chart.panels] == ["sigmoid"]
    running, recalibrated, _ = chart.panels[0].lines
    assert np.subtract(recalibrated.mean, running.mean) == pytest.approx(2.0)
    assert "3 arms where all give the same answer" in chart.words.caption


@pytest.mark.parametrize(("augment", "expected"), [([], False), ([{"name": "flip"}, {"name": "crop"}], True)])
def test_three_ways_say_that_test_batches_are_not_augmented_where_training_is(tmp_path, augment, expected):
    described = definition()
    for arm in described["arms"]:
        arm["recipe"]["augment"] = augment
    caption = three_ways(findings_of(tmp_path, described)).words.caption
    assert ("Training images are augmented (flip, crop)" in caption) == expected


@pytest.mark.parametrize(
    ("evaluate", "expected"),
    [("running", ", with running statistics."), ("recalibrated", ", with the statistics that norm.evaluate asks for.")],
)
def test_the_headline_says_which_statistics(tmp_path, evaluate, expected):
    described = definition()
    for arm in described["arms"]:
        arm["recipe"]["model"] = {"norm": {"name": "batch", "evaluate": evaluate}}
    assert expected in accuracy(findings_of(tmp_path, described)).words.caption


def test_references_are_marked_only_where_the_recipe_is_the_published_one(tmp_path):
    reference = {"source": "a paper", "arm": {"model.activation": "relu", "model.depth": 4}, "accuracy": 60.0}
    full = accuracy(findings_of(tmp_path / "full", definition(references=[reference])))
    assert [line.references for line in full.panels[0].lines] == [(), ((4.0, 60.0),)]
    quick = accuracy(findings_of(tmp_path / "quick", definition(references=[reference], quick=True)))
    assert not any(line.references for line in quick.panels[0].lines)


def test_every_caption_states_n_the_hardware_and_the_precision(tmp_path):
    for figure in compute_figures(findings_of(tmp_path)):
        caption = figure.words.caption.replace("\u00a0", " ")
        assert "n = 5 seeds" in caption
        assert "a CPU, bf16; allelse 0.1.0" in caption


def test_the_projection_of_a_residual_block_is_named_apart():
    layers = ("stem.conv", "blocks.0.conv", "blocks.0.shortcut", "blocks.1.conv", "head")
    assert [_short(layer) for layer in layers] == ["stem", "0", "0 skip", "1", "head"]


@pytest.mark.parametrize(
    "factors", [{"model.depth": [1, 4], "model.norm": ["batch", "group"]}, {"model.norm": ["batch", "group"]}]
)
def test_captions_at_one_seed_promise_no_intervals(tmp_path, factors):
    figures = compute_figures(findings_of(tmp_path, definition(factors=factors, claims=[], seeds=[0])))
    captions = {figure.words.name: figure.words.caption for figure in figures}
    assert "the values of one seed" in captions["accuracy"]
    assert "the values of one seed" in captions["differences"]
    assert not [name for name, caption in captions.items() if re.search("interval|mark|means", caption)]


# ── files ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("series", [1, 2, 3])
def test_seeds_beside_each_other_at_each_doubling_are_as_far_apart_at_all(tmp_path, series):
    factors = {"model.norm": ["a", "b", "c"][:series], "batch_size": [2, 16, 128]}
    canvas = drawing.draw(accuracy(findings_of(tmp_path, definition(factors=factors, claims=[]))))
    [axes] = canvas.axes
    dots = [line.get_xdata() for line in axes.lines if line.get_linestyle() == "None" and len(line.get_xdata()) == 15]
    assert len(dots) == series
    for x in dots:
        spread = np.ptp(np.log2(np.reshape(x, (5, 3))), axis=0)
        assert spread[0] > 0.05
        assert spread == pytest.approx([spread[0]] * 3)


def test_what_is_not_drawn_is_told(tmp_path):
    described = definition(factors={"model.activation": [f"part{number}" for number in range(9)]}, claims=[])
    found = findings_of(tmp_path, described)
    for figure in (learning_curves(found), gradients(found)):
        assert figure.words.caption.endswith(" 2 more series are in the table of arms only.")
    rows = definition(factors={"order": [f"o{number}" for number in range(26)]}, claims=[])
    assert "2 more arms are in the table of arms only." in three_ways(findings_of(tmp_path / "rows", rows)).words.caption


def test_a_logarithmic_axis_has_numbers_also_within_a_decade(tmp_path):
    def within(spec, accuracy):
        made = result(spec, accuracy)
        return replace(made, probes=[{**row, "gradient_norm": row["gradient_norm"] / 4 + 1.2} for row in made.probes])

    canvas = drawing.draw(gradients(findings_of(tmp_path, None, within)))
    FigureCanvasAgg(canvas).draw()
    low, high = canvas.axes[0].get_ylim()
    numbers = [float(label.get_text()) for label in canvas.axes[0].get_yticklabels()]
    assert 1 < low < high < 2
    assert sum(low <= number <= high for number in numbers) >= 2


def test_the_labels_of_two_parts_of_one_module_are_told_apart():
    one, other = (drawing._short(f"python:mypackage.activations:{name}") for name in ("Serf", "Swish"))
    assert one != other
    assert max(len(one), len(other)) <= 26


def test_rows_whose_names_differ_at_the_end_are_told_apart_within_the_picture():
    common = "prelu(slope=0.1, per_channel=true) − prelu(slope=0.2, per_channel=true), norm"
    mark = Mark("", 0, 1.0, 0.5, 1.5, (1.0,))
    rows = tuple(Row(f"{common} {name}", (mark,)) for name in ("group(groups=4)", "group(groups=8)"))
    with style():
        canvas = drawing.draw(Rows(Words("differences", "t", "c", "a"), rows, "x", zero=True))
        drawer = FigureCanvasAgg(canvas)
        drawer.draw()
        [axes] = canvas.axes
        first, second = axes.texts
        assert first.get_text() != second.get_text()
        assert max(text.get_window_extent(drawer.get_renderer()).x1 for text in axes.texts) <= canvas.bbox.x1
        assert axes.get_position().width > 0.8


def test_figures_become_png_and_svg_files_that_open(tmp_path):
    figures = compute_figures(findings_of(tmp_path / "store"))
    paths = write_figures(figures, tmp_path / "figures")
    assert len(paths) == 2 * len(figures)
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.width == 960
                assert len(image.convert("RGB").getcolors(1 << 24)) > 20
        else:
            assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_a_figure_on_a_page_has_no_fixed_ink_and_no_id_of_another(tmp_path):
    figures = compute_figures(findings_of(tmp_path))
    one, other = (picture(figure).inline for figure in figures[:2])
    for text in (one, other):
        ElementTree.fromstring(text)
        assert "currentColor" in text
        assert "#16181d" not in text

    def ids(text):
        return {element.get("id") for element in ElementTree.fromstring(text).iter() if element.get("id")}

    assert ids(one)
    assert not ids(one) & ids(other)


@pytest.mark.parametrize("name", ["$\\frac{", "한국어", "a\x00b\nc", "<&>]]>--!>", "x" * 500, ""])
def test_any_text_can_be_drawn(tmp_path, name):
    factors = {"order": [name, "Conv→BN"]}
    figure = accuracy(findings_of(tmp_path, definition(factors=factors, claims=[])))
    ElementTree.fromstring(picture(figure).inline)


def test_the_users_own_matplotlib_settings_neither_matter_nor_change():
    with mpl.rc_context({"font.size": 31.0}):
        with style():
            assert mpl.rcParams["font.size"] == 10
        assert mpl.rcParams["font.size"] == 31.0
