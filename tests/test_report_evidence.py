"""What the report rests on: which claims were asked, of which recipe, trained on what and how long, by which commands."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from report_support import CLAIMS, MADE, definition, result, write_store
from study_support import allelse

from allelse import store
from allelse.report import compare, figures, gather, judge, write_report
from allelse.report.contents import contents


@pytest.fixture(autouse=True)
def _words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figure is drawn, which takes longer than all the rest."""
    monkeypatch.setattr(figures, "FIGURES", {})


def test_a_claim_that_was_not_asked_does_not_stop_the_others(tmp_path):
    odd = [
        {**CLAIMS[1], "id": "no-level", "where": {"model.activation": "tanh"}},
        {**CLAIMS[0], "id": "no-metric", "metric": "beauty"},
        {**CLAIMS[0], "id": "no-kind", "kind": "prettier"},
    ]
    with store.read(write_store(tmp_path, definition(claims=[odd[0], CLAIMS[0], *odd[1:]]))) as opened:
        found = judge(opened)
    assert [verdict.id for verdict in found] == ["no-level", "relu-above", "no-metric", "no-kind"]
    assert [verdict.verdict for verdict in found] == ["undecided", "supported", "undecided", "undecided"]
    for verdict in (found[0], *found[2:]):
        assert verdict.reason.startswith("not asked in this run: ")
        assert json.dumps(asdict(verdict))
    assert found[0].reason == "not asked in this run: no arm has model.activation = tanh"
    assert "beauty" in found[2].reason


def test_a_metric_with_no_finite_value_is_asked_and_makes_no_other_claim_easier(tmp_path):
    def spoilt(spec, accuracy):
        made = result(spec, accuracy)
        return replace(made, metrics={**made.metrics, "accuracy_recalibrated": float("nan")})

    other = {**CLAIMS[0], "id": "recalibrated", "metric": "accuracy_recalibrated"}
    with store.read(write_store(tmp_path, definition(claims=[CLAIMS[0], other]), spoilt)) as opened:
        first, second = judge(opened)
    assert first.p_adjusted == pytest.approx(2 * first.p)
    assert second.reason.startswith("5 of 5 seeds have no value of this metric in ")


def test_the_tally_counts_what_was_not_asked(tmp_path):
    claims = [CLAIMS[0], {**CLAIMS[1], "where": {"model.activation": "tanh"}}]
    page = write_report(write_store(tmp_path, definition(claims=claims))).with_name("report.md").read_text("utf-8")
    assert "Of 2 claims: 1 supported, 0 refuted, 1 undecided, 1 of them not asked in this run." in page


@pytest.mark.parametrize(("kind", "says"), [("quick", "**Quick study.**"), ("scaled", "**Scaled study.**"), ("", "")])
def test_both_pages_say_of_what_recipe_the_verdicts_speak(tmp_path, kind, says):
    page = write_report(write_store(tmp_path, definition(**({kind: True} if kind else {}))))
    markdown = page.with_name("report.md").read_text("utf-8")
    assert (says in markdown) if kind else ("study.**" not in markdown)
    assert (f"<strong>{says.strip('*')}</strong>" in page.read_text("utf-8")) if kind else True


@pytest.mark.parametrize(
    ("command", "says"), [("", False), (" --quick --first-seed 3", False), (" --seeds 2 --set 'a=[\"b c\"]'", True)]
)
def test_both_pages_say_what_the_command_changed(tmp_path, command, says):
    page = write_report(write_store(tmp_path, definition(command=f"allelse run made-up{command}")))
    head = page.with_name("report.md").read_text("utf-8").partition("## Verdicts")[0]
    assert ("**Changed by the command.**" in head) == says
    if says:
        assert "Whatever the study file declares, --seeds 2 --set 'a=\\[\"b c\"\\]' was asked for: these" in head
        assert "<strong>Changed by the command.</strong> Whatever the study file declares, --seeds 2 --set" in page.read_text(
            "utf-8"
        )


@pytest.mark.parametrize(("gaps", "says"), [([0.3] * 2, False), ([0.3] * 9, True), ([0.28, 0.3, 0.29, 0.31, 0.3], True)])
def test_equal_gaps_of_few_seeds_are_a_coincidence_and_no_proof_of_a_lag(tmp_path, gaps, says):
    def one(spec, value):
        metrics = {"accuracy": 50.0, "accuracy_running": 50.0, "accuracy_recalibrated": 50.0 + gaps[spec.seed]}
        return replace(result(spec, value), metrics=metrics)

    made = definition(factors={"model.depth": [1]}, claims=[], seeds=list(range(len(gaps))))
    page = write_report(write_store(tmp_path, made, one)).with_name("report.md").read_text("utf-8")
    assert "The widest distance between recalibrated and running statistics is +0.3" in page
    assert ("was not lost in learning" in page) == says


def test_the_first_lines_say_on_what_when_and_how_long(tmp_path):
    def one(spec, value):
        started = f"2026-01-0{1 + spec.seed}T00:00:00+00:00"
        timing = {"train": 600.0 + spec.seed, "evaluate": 60.0, "images_per_second": 1e6}  # one pack a seed
        made = replace(MADE, device="a CPU (1 threads)", started=started)
        return replace(result(spec, value), timing=timing, provenance=made)

    page = write_report(write_store(tmp_path, result_of=one)).with_name("report.md").read_text("utf-8")
    assert "trained on a CPU (1 thread), bf16, 2026-01-01 to 2026-01-05 (UTC), in 55 minutes of computing." in page


def test_a_united_folder_is_made_again_by_all_its_commands(tmp_path):
    for number, (seeds, moved) in enumerate((([0, 1], ""), ([7, 8], " --first-seed 7"))):
        write_store(tmp_path / f"{number}", definition(seeds=seeds, command=f"allelse run made-up{moved}"))
    store.merge(tmp_path / "both", [tmp_path / "0", tmp_path / "1"])
    page = write_report(tmp_path / "both").with_name("report.md").read_text("utf-8")
    assert "**Seeds of several runs.** If some were added because" in page.partition("## Verdicts")[0]
    with store.read(tmp_path / "0") as opened:
        assert contents(gather(opened)).caveats == ()
    shown = {name: " ".join(allelse("verdicts", tmp_path / name).out.split()) for name in ("both", "0")}
    assert {name: "Seeds of several runs. If some were added" in text for name, text in shown.items()} == {
        "both": True,
        "0": False,
    }
    assert (
        "allelse run made-up --out DIR1\nallelse run made-up --first-seed 7 --out DIR2\nallelse merge DIR DIR1 DIR2\n"
    ) in page


@pytest.mark.parametrize("status", ["diverged", "failed", "pending"])
def test_claims_whose_runs_are_all_lost_do_not_leave_the_correction(tmp_path, status):
    """``mean_distance`` is only had by sigmoid's runs here, of which none is finished."""

    def lost(spec, value):
        if spec.arm["model.activation"] == "relu":
            return result(spec, value)
        return None if status == "pending" else result(spec, value, status=status)

    higher = {"id": "deeper", "kind": "higher", "a": {"model.depth": 2}, "b": {"model.depth": 1}}
    claims = [
        {**higher, "says": "lost", "metric": "mean_distance", "where": {"model.activation": "sigmoid"}},
        {**higher, "says": "there", "id": "there", "where": {"model.activation": "relu"}},
    ]
    with store.read(write_store(tmp_path, definition(claims=claims), lost)) as opened:
        of_lost, there = judge(opened)
    assert of_lost.reason.startswith("5 of 5 seeds ")
    assert there.p_adjusted == pytest.approx(min(1.0, 2 * there.p))
    claims[0]["where"] = {"model.activation": "relu"}  # all done, and without it
    with store.read(write_store(tmp_path / "all", definition(claims=claims), lost)) as opened:
        of_lost, there = judge(opened)
    assert of_lost.reason == "not asked in this run: no finished run has the metric 'mean_distance'"
    assert there.p_adjusted == there.p


def test_claims_that_were_not_asked_leave_the_correction(tmp_path):
    odd = {**CLAIMS[0], "id": "no-metric", "metric": "beauty"}
    with store.read(write_store(tmp_path / "both", definition(claims=[CLAIMS[0], odd]))) as opened:
        both = judge(opened)
    with store.read(write_store(tmp_path / "one", definition(claims=[CLAIMS[0]]))) as opened:
        assert both[0] == judge(opened)[0]


def test_arms_without_running_statistics_are_not_counted_among_those_that_might_lag(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "FIGURES", {"three-ways": figures.three_ways})

    def one(spec, value):
        gap = [0.1, 0.5, 0.9, 0.4, 0.2][spec.seed] if spec.arm["model.norm"] == "batch" else 0.0
        return result(spec, value, metrics={"accuracy": value, "accuracy_running": value, "accuracy_recalibrated": value + gap})

    described = definition(factors={"model.norm": ["batch", "group", "layer", "instance", "none"]}, claims=[])
    folder = write_report(write_store(tmp_path, described, one)).parent
    page = (folder / "report.md").read_text("utf-8")
    assert "statistics is +0.42 points, in norm batch (" in page
    assert "It was picked as the widest" not in page  # of one
    assert "the running statistics lag behind the network" in page
    [caption] = [line for line in page.splitlines() if line.startswith("Test accuracy of the same trained networks")]
    assert "n = 5 seeds an arm; " in caption.replace("\u00a0", " ")
    assert "Left out: 4 arms where all give the same answer." in caption


@pytest.mark.parametrize(("arms", "is_told"), [(["relu"], True), (["relu", "tanh", "elu", "gelu", "silu", "selu"], False)])
def test_the_widest_gap_of_many_arms_must_be_wider_to_be_called_a_lag(tmp_path, arms, is_told):
    """By t of four degrees of freedom these five are above 0 at 95 %, and not at 1 − 0.05 / 6."""
    gaps = [0.1, 0.5, 0.9, 0.4, 0.2]

    def one(spec, value):
        gap = gaps[spec.seed] if spec.arm["model.activation"] == "relu" else 0.001 * (-1) ** spec.seed
        return result(spec, value, metrics={"accuracy": value, "accuracy_running": value, "accuracy_recalibrated": value + gap})

    described = definition(factors={"model.activation": arms}, claims=[])
    page = write_report(write_store(tmp_path, described, one)).with_name("report.md").read_text("utf-8")
    assert "statistics is +0.42 points" in page
    assert ("the running statistics lag behind the network" in page) is is_told


def test_published_figures_beside_a_scaled_study_have_no_interval_of_a_test(tmp_path):
    reference = {"source": "a paper", "arm": {"model.activation": "relu"}, "accuracy": 80.0, "sd": 0.3, "n": 5}
    with store.read(write_store(tmp_path, definition(scaled=True, references=[reference]))) as opened:
        found = compare(opened)
    assert {(one.low, one.high, one.p, one.verdict) for one in found} == {(None, None, None, "cannot tell")}
    assert all(one.difference is not None for one in found)
