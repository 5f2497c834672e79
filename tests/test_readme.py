"""What the READMEs tell people to type works as written, in small: every command, the Python block and the study file."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from study_support import allelse

ROOT = Path(__file__).parent.parent
READMES = ["README.md", "README.ko.md"]
SMALL = ["--seeds", "2", "--set", "epochs=1", "--set", "train_per_class=10", "--set", "batch_size=10"]


def blocks(readme: str, language: str) -> list[str]:
    text = (ROOT / readme).read_text("utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for found, block in fenced if found == language]


@pytest.mark.parametrize("language", ["", "python"])
def test_both_readmes_have_the_same_commands_and_python(language):
    assert blocks("README.ko.md", language) == blocks("README.md", language)


def test_every_command_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("README.md", "") for line in block.splitlines() if line.startswith("allelse ")]
    assert len(commands) >= 3
    for command in commands:
        words = shlex.split(command)[1:]
        ended = allelse(*words, *(SMALL if words[0] in ("run", "plan") else []))
        assert ended.code == 0, (command, ended.err)


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [code] = blocks("README.md", "python")
    small = code.replace("quick=True", 'quick=True, seeds=2, changes=["epochs=1", "train_per_class=10", "batch_size=10"]')
    assert small != code
    exec(small, {})
    assert (tmp_path / "runs" / "sigmoid-vs-relu-quick" / "report.html").exists()


@pytest.mark.parametrize("readme", READMES)
def test_the_study_file_of_the_readme_runs(readme, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [text] = blocks(readme, "toml")
    Path("mine.toml").write_text(text, "utf-8")
    ended = allelse("run", "mine.toml", *SMALL)
    assert ended.code == 0, ended.err
    assert tomllib.loads(text)["claims"][0]["says"] in ended.out


@pytest.mark.parametrize("readme", READMES)
def test_the_set_up_that_the_readme_names_is_there(readme):
    text = (ROOT / readme).read_text("utf-8")
    assert "make demo" in text
    assert "demo:" in (ROOT / "Makefile").read_text()
    assert (ROOT / "requirements.txt").exists()
    for notebook in re.findall(r"`(notebooks/[^`]+\.ipynb)`", text):
        assert (ROOT / notebook).exists(), notebook


def test_both_readmes_name_the_same_commands_and_files():
    code = [sorted(re.findall(r"`([^`\n]+)`", (ROOT / readme).read_text("utf-8"))) for readme in READMES]
    assert code[0] == code[1]


@pytest.mark.parametrize("readme", READMES)
def test_every_command_stands_in_the_readme(readme):
    table = re.findall(r"^\| `allelse (\w+)", (ROOT / readme).read_text("utf-8"), re.MULTILINE)
    there = re.findall(r"^  (\w+) {2,}\S", allelse("--help").out.partition("Commands:")[2], re.MULTILINE)
    assert sorted(table) == sorted(there)
    assert len(there) > 8


@pytest.mark.parametrize("readme", READMES)
def test_every_file_that_the_readme_links_to_is_there(readme):
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / readme).read_text("utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
