"""What is sent to workers along with a pack: the proof of a folder, and the user's own code."""

import pickle
import subprocess
import sys

from allelse import own
from allelse.launch.crew import Proof


def test_a_checkpoint_is_kept_only_in_the_very_folder_that_is_meant(tmp_path):
    file = tmp_path / "token"
    proof = Proof(file, "secret")
    assert not proof.holds()
    file.write_text("of another folder with this path")
    assert not proof.holds()
    file.write_text("secret")
    assert proof.holds()


def elsewhere(sent, imports: str, before: str = "") -> list[str]:
    """What a fresh process prints that received ``sent``."""
    code = f"{before}\nimport pickle\nfrom allelse import own\nown.receive(pickle.loads({pickle.dumps(sent)!r}))\n{imports}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_own_code_is_found_where_it_stands_or_as_it_was_sent(tmp_path, monkeypatch):
    monkeypatch.setattr(own, "_folders", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = tmp_path / "sent_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("import sent_beside\nclass Part: value = sent_beside.VALUE\n")
    (tmp_path / "sent_beside.py").write_text("VALUE = 'as-sent'\n")
    (tmp_path / "sent_unused.py").write_text("raise RuntimeError\n")
    own.search(tmp_path)
    own.find("python:sent_pkg.inner:Part")
    sent = own.send()
    assert [sorted(map(str, sources.text_from_file)) for sources in sent] == [
        ["sent_beside.py", "sent_pkg/__init__.py", "sent_pkg/inner.py"]
    ]
    show = "from sent_pkg.inner import Part\nimport sent_beside\nprint(Part.value, sent_beside.__file__)"
    assert elsewhere(sent, show) == ["as-sent", str(tmp_path / "sent_beside.py")]
    (tmp_path / "sent_beside.py").write_text("VALUE = 'changed'\n")  # while the study runs
    value, file = elsewhere(sent, show)
    assert value == "as-sent"
    assert not file.startswith(str(tmp_path))
    there = f"import sys\nsys.path.append({str(tmp_path)!r})"  # as a child process has its parent's places
    assert elsewhere(sent, show, there)[0] == "as-sent"
    assert own.send() == sent, "also what is sent from now on"
    (tmp_path / "sent_beside.py").unlink()  # a node that has no such folder
    assert elsewhere(sent, show)[0] == "as-sent"
