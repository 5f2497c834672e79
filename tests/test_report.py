"""The report's two pages: what they say, what they do with text from outside, and how a real browser takes them."""

from __future__ import annotations

import html
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_support import FACTORS, browser, definition, many_runs, open_browser, result, value_of, write_store

from allelse import store, study
from allelse.errors import StoreError
from allelse.report import gather, judge, write_report
from allelse.report.contents import contents
from allelse.report.evidence import classes_of, judge_table
from allelse.report.markdown import code, escape, markdown
from allelse.report.page import html as html_of
from allelse.report.page import pictures_of
from allelse.report.tables import difference_table

EVIL = (
    "<script>document.title='owned'</script>]]>--!><img src=x onerror=alert(1)> "
    "& \"quoted\" 'single' `tick` *star* [l](javascript:0) $x$"
)
VOID = {"meta", "link", "path", "use", "img", "br", "image"}


class Outline(HTMLParser):
    """Headings in order, visible text, ids, tags, and whether tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.headings, self.texts, self.ids, self.tags, self.open = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def page_of(told):
    return html_of(told, pictures_of(told))


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    folder = write_store(tmp_path_factory.mktemp("plain"))
    return write_report(folder)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """A study whose every free text is hostile."""
    factors = {EVIL: [EVIL, "日本 한국"], "size": [1, 2]}
    claim = {"id": "evil", "says": EVIL, "kind": "higher", "a": {EVIL: EVIL}, "b": {EVIL: "日本 한국"}, "for_each": "size"}
    described = definition(name=EVIL, question=EVIL, factors=factors, claims=[claim], references=[
        {"source": EVIL, "arm": {EVIL: EVIL}, "accuracy": 50.0}
    ])  # fmt: skip

    def one(spec, accuracy):
        if spec.seed == 4:
            return result(spec, accuracy, status="failed", error=EVIL)
        made = result(spec, accuracy)
        return replace(made, provenance=replace(made.provenance, device=EVIL))

    return write_report(write_store(tmp_path_factory.mktemp("evil"), described, one))


def told_of(folder):
    with store.read(folder) as opened:
        return contents(gather(opened))


# ── what it says ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_sections_come_in_the_order_of_reading(reported):
    page = reported.read_text("utf-8")
    places = [
        page.index(f'<h2 id="{name}"') for name in ("verdicts", "arms", "figures", "mechanism", "same", "again", "trouble")
    ]
    assert places == sorted(places)
    assert page.index("<h1>Does it matter?") < places[0]


def test_every_verdict_stands_with_icon_word_sentence_and_numbers(reported):
    with store.read(reported.parent) as opened:
        verdicts = judge(opened)
    text = Outline(reported.read_text("utf-8")).text
    for verdict in verdicts:
        assert verdict.sentence in text
        assert verdict.says in text
    assert "✓ supported" in text
    assert f"{verdicts[0].estimate:+.2f} points" in text
    assert "n 5 seeds" in text


def test_both_pages_tell_of_the_same_numbers(reported):
    told = told_of(reported.parent)
    page, text = (reported.with_suffix(suffix).read_text("utf-8") for suffix in (".html", ".md"))
    for row in told.arms.rows:
        assert all(html.escape(cell) in page and escape(cell) in text for cell in row)


def test_published_figures_stand_beside_ours_with_difference_and_verdict(tmp_path):
    arm = {"model.activation": "relu", "model.depth": 4}
    references = [
        {"source": "a paper", "arm": arm, "accuracy": 62.25, "sd": 0.5, "n": 4, "note": "they used dropout"},
        {"source": "a page", "arm": {**arm, "model.depth": 1}, "accuracy": 61.0},
    ]
    folder = write_store(tmp_path, definition(references=references), accuracy=lambda arm, seed: 61.0 + seed / 2)
    told = told_of(folder)
    first, second = told.published.rows
    assert (first[0], first[-1]) == ("relu, depth 4", "a paper")
    assert first[1].startswith("agrees within 1.")
    assert first[2:5] == ("62.25 ± 0.50, n = 4", "62.00 ± 0.79, n = 5", "−0.25")
    assert (second[1], second[-2]) == ("cannot tell", "59.60 to 64.40, theirs inside")
    assert "Cannot tell: their n is not given (relu, depth 1)." in told.published_notes
    assert "Note on relu, depth 4 by a paper: they used dropout" in told.published_notes
    for page in (Outline(page_of(told)).text, markdown(told)):
        assert "Published figures" in page
        assert "agrees within 1." in page
        assert "they used dropout" in page


def test_a_report_without_references_has_no_section_for_them(reported):
    assert all("Published" not in reported.with_suffix(suffix).read_text("utf-8") for suffix in (".html", ".md"))


def test_a_quick_study_shows_no_references_and_says_why(tmp_path):
    reference = {"source": "a paper", "arm": {"model.activation": "relu"}, "accuracy": 61.23}
    folder = write_store(tmp_path, definition(quick=True, name="made-up-quick", references=[reference]))
    told = told_of(folder)
    assert told.published is None
    [note] = told.published_notes
    assert "not shown beside" in note
    assert "61.23" not in note


def test_what_differed_is_named_by_its_recipe_key(reported):
    told = told_of(reported.parent)
    assert ("arm.model.activation", "sigmoid, relu") in told.differed.rows
    assert ("epochs", "2") in told.shared.rows


def test_a_level_that_is_the_default_is_named_too(reported):
    with store.read(reported.parent) as opened:
        findings = replace(gather(opened), definition=study.load("sigmoid-vs-relu", scaled=True).definition())
    differed = difference_table(findings)  # stored recipes leave out depth 4, ReLU and BatchNorm
    assert differed.rows == (
        ("model.activation.name", "sigmoid, relu"),
        ("model.depth", "1, 4, 8"),
        ("model.norm.name", "batch, none"),
    )
    assert "at the default" not in differed.caption


def test_the_name_of_a_level_is_not_taken_for_a_value(reported):
    recipes = {"small": {"epochs": 2, "batch_size": 16}, "large": {"epochs": 2}}
    arms = [{"levels": {"batch_size": name}, "recipe": recipe} for name, recipe in recipes.items()]
    with store.read(reported.parent) as opened:
        findings = replace(gather(opened), definition=definition(arms=arms, factors={"batch_size": list(recipes)}))
    assert difference_table(findings).rows == (("batch_size", "16, –"),)


@pytest.mark.parametrize(("classes", "said"), [(2, True), (10, False), (None, False)])
def test_that_arms_are_alike_at_chance_says_nothing_of_trained_networks(reported, classes, said):
    same = {
        "id": "same",
        "says": "Alike",
        "kind": "stable",
        "along": "model.depth",
        "margin": 3.0,
        "for_each": "model.activation",
    }
    with store.read(reported.parent) as opened:
        table, declared = opened.table(), definition(claims=[same])
    table["accuracy"] = 50.0 - (table["seed"] + table["model.depth"]) / 100
    [verdict] = judge_table(declared, table, classes)
    assert verdict.verdict == "supported"
    assert ("But no arm here is clearly above the 50 % of chance" in verdict.sentence) == said
    table["accuracy"] += 1.5  # as a constant answer has where the test split has more images of one class than of another
    assert ("clearly above the 50 % of chance" in judge_table(declared, table, classes)[0].sentence) == said
    table.loc[table["model.depth"] == table["model.depth"].max(), "accuracy"] += 2.9
    assert "chance" not in judge_table(declared, table, classes)[0].sentence


def test_the_number_of_classes_is_that_of_the_last_layer(reported):
    with store.read(reported.parent) as opened:
        runs = opened.outcomes()
    assert classes_of(runs) is None
    [first, *_] = runs
    known = replace(first.result, fingerprints={"data d": "a", "init head.bias 100 of 100x128": "b"})
    assert classes_of([replace(first, result=None), replace(first, result=known)]) == 100


def test_arms_that_are_equal_bit_for_bit_are_named(tmp_path):
    same = write_store(tmp_path / "same", accuracy=lambda arm, seed: 70.0 + seed + arm["model.depth"])
    assert any("sigmoid, depth 2 = relu, depth 2" in note for note in told_of(same).arm_notes)

    def nearly(arm, seed):
        return 70.0 + seed + arm["model.depth"] + 1e-12 * (seed == 3 and arm["model.activation"] == "relu")

    assert not told_of(write_store(tmp_path / "nearly", accuracy=nearly)).arm_notes


def test_diverged_failed_and_pending_runs_are_all_listed(tmp_path):
    def one(spec, accuracy):
        if spec.arm["model.depth"] == 4 and spec.seed == 1:
            return result(spec, accuracy, status="diverged", error="loss is nan at step 7")
        return None if spec.arm["model.depth"] == 2 else result(spec, accuracy)

    told = told_of(write_store(tmp_path, result_of=one))
    assert ("relu, depth 4", "1", "diverged", "loss is nan at step 7") in told.trouble.rows
    assert ("relu, depth 2", "5 seeds", "pending", "not finished yet") in told.trouble.rows
    assert "diverged" in told.arms.columns
    assert told.cards[0].verdict == "undecided"
    assert "pending" in told.cards[0].sentence


@pytest.mark.parametrize("results", ["none", "one seed"])
def test_half_a_study_still_gives_a_report(tmp_path, results):
    def one(spec, accuracy):
        if results == "none" or (results == "one seed" and spec.seed):
            return None
        return result(spec, accuracy, probes=False)

    told = told_of(write_store(tmp_path, result_of=one))
    page = Outline(page_of(told))
    assert not page.open
    assert " nan" not in page.text.lower()
    assert " nan" not in markdown(told).lower()


def test_a_folder_without_a_plan_gives_a_report_too(tmp_path):
    with store.write(tmp_path, definition()):
        pass
    assert "No run is planned yet" in write_report(tmp_path).read_text("utf-8")


def test_a_study_without_factors_or_claims_gives_a_report(tmp_path):
    page = page_of(told_of(write_store(tmp_path, definition(factors={}, claims=[]))))
    assert "the only arm" in page
    assert "declares no claims" in page


def test_the_same_store_gives_the_same_bytes(reported):
    folder = reported.parent
    files = [folder / "report.html", folder / "report.md", *sorted((folder / "figures").iterdir())]
    before = [file.read_bytes() for file in files]
    write_report(folder)
    assert [file.read_bytes() for file in files] == before
    assert not [file.name for file in folder.iterdir() if file.name.startswith(".")]


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(StoreError, match="no study was run there"):
        write_report(tmp_path)


@pytest.mark.parametrize("taken", ["figures", "report.md"])
def test_what_stands_in_the_way_of_a_report_is_named(tmp_path, taken):
    folder = write_store(tmp_path, definition(claims=[]))
    if taken == "figures":
        (folder / taken).write_text("mine")
    else:
        (folder / taken).mkdir()
    with pytest.raises(StoreError, match=rf"{re.escape(str(folder / taken))}: the report cannot be written: .+; free space"):
        write_report(folder)
    assert (folder / taken).exists()


def test_the_room_never_imports_torch():
    check = "import sys, allelse.report.page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_verdicts_alone_do_not_wait_for_matplotlib():
    check = "import sys, allelse.report; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


# ── markup ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", ["reported", "attacked"])
def test_the_page_is_well_formed_and_made_for_screen_readers(request, page):
    outline = Outline(request.getfixturevalue(page).read_text("utf-8"))
    assert not outline.open
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(outline.headings, outline.headings[1:], strict=False))
    names = [tag for tag, _ in outline.tags]
    assert {"header", "nav", "main", "footer"} <= set(names)
    assert names.count("caption") == names.count("table") > 3
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in outline.tags if tag == "th")
    assert all(attributes.get("aria-label") for _, attributes in outline.tags if attributes.get("role") == "img")
    links = [attributes["href"] for tag, attributes in outline.tags if tag == "a"]
    assert all(link[1:] in outline.ids for link in links)


def test_text_of_a_malicious_study_is_shown_as_text(attacked):
    page = attacked.read_text("utf-8")
    outline = Outline(page)
    assert not {"script", "img"} & {tag for tag, _ in outline.tags}
    assert not [name for _, attributes in outline.tags for name in attributes if name.startswith("on")]
    assert outline.text.count(" ".join(EVIL.split())) >= 5


def test_text_of_a_malicious_study_is_harmless_in_markdown(attacked):
    text = attacked.with_suffix(".md").read_text("utf-8")
    outside = re.sub(r"^(`{3,})(\w*)\n.*?\n\1$", "", text, flags=re.S | re.M)
    assert "script" in outside
    assert not re.findall(r"(?<!\\)<", outside)
    assert not re.findall(r"(?<!\\)\]\(javascript", outside)
    assert "document.title" in outside


def test_markdown_escapes_what_would_begin_a_block_a_link_or_a_mention():
    assert escape("# a\n\n- b") == "\\# a - b"
    assert escape("- a") == "\\- a"
    assert escape("---") == "\\---"
    assert [escape(text) for text in ("+5.00", "-5", "0.005")] == ["+5.00", "-5", "0.005"]
    assert escape("1. a") == "1\\. a"
    assert escape("https://x.y and www.x.y @me") == "https\\://x.y and www\\.x.y \\@me"
    assert escape("a | b_c") == "a \\| b\\_c"
    assert code("a ```` b").startswith("`````\n")


def test_the_stored_definition_is_in_the_page_whole(reported):
    page = reported.read_text("utf-8")
    stored = re.search(r'aria-label="Definition"><code>(.*?)</code>', page, re.S)[1]
    assert json.loads(html.unescape(stored)) == definition()


# ── a real browser, and many runs ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(browser() is None, reason="needs chromium or google-chrome")
def test_in_a_browser_nothing_is_said_fetched_or_too_wide(reported, attacked):
    with open_browser() as page:
        for file in (reported, attacked):
            for width in (360, 1200):
                page.open(file, width=width)
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.evaluate("document.title") != "owned"
                assert page.evaluate("document.querySelectorAll('.picture svg path').length") > 50
                assert page.complaints() == []
                assert page.requests() == []


@pytest.mark.skipif(browser() is None, reason="needs chromium or google-chrome")
def test_in_a_browser_dark_paper_is_dark_and_figures_follow(reported):
    with open_browser() as page:
        ink = []
        for dark in (False, True):
            page.open(reported, width=800, dark=dark)
            ink.append(page.evaluate("getComputedStyle(document.querySelector('.picture svg')).color"))
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (paper == "rgb(255, 255, 255)") != dark
        assert ink[0] != ink[1]


def test_many_runs_are_reported_on_a_page_that_opens(tmp_path):
    assert write_report(many_runs(tmp_path, 800, epochs=5)).stat().st_size < 3_000_000


def test_the_helpers_know_their_study():
    assert value_of({"model.activation": "relu"}, 0) > value_of({"model.activation": "sigmoid"}, 4)
    assert len(definition()["arms"]) == len(FACTORS["model.activation"]) * len(FACTORS["model.depth"])
    assert Path(__file__).with_name("report_support.py").is_file()
