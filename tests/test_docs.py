"""What README and docs tell people to write and to type works."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reports import static
from tests.support.shell_calls import BIN, ROOT, calls, unknown_words
from tests.support.stores import write_store
from tools import estimators_page

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
PYTHON = [
    code for text in TEXTS.values() for code in re.findall(r"```python\n(.*?)```", text, re.S)
]
FILES = {code.split()[1]: code for code in PYTHON if code.startswith("# ")}
IMPORTED = ["shrunk.py", "last_step.py", "coin.py", "lines.py", "tanh_net.py", "length.py"]
COMMANDS = re.compile(r"^(?:metagrad|asv|make) (?:[^\n]*\\\n)*[^\n]*", re.M)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The files that the pages show, as options that import them."""
    for name in IMPORTED:
        (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    return [word for name in IMPORTED for word in ("--import", name)]


def metagrad(folder: Path, *words: str) -> str:
    command = [str(BIN / "metagrad"), *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_estimators_task_model_and_metric_of_the_pages_are_measured(
    tmp_path: Path, files: list[str]
) -> None:
    estimators = ["--estimator", "shrunk(factor=0.2)", "--estimator", "last-step"]
    estimators += ["--estimator", "coin(p=0.3)"]
    options = ["--depth", "2", "--tasks", "1", "--samples", "0", *estimators, *files]
    metagrad(tmp_path, "run", "--task", "lines", "--model", "tanh-net(width=8)", *options)
    metagrad(tmp_path, "export", "--out", "out.csv")
    rows = (tmp_path / "out.csv").read_text(encoding="utf-8")
    assert rows.count(",length,") == 3


@pytest.mark.slow
def test_estimators_of_the_pages_conform(tmp_path: Path, files: list[str]) -> None:
    for estimator in ("shrunk", "last-step", "coin"):
        metagrad(tmp_path, "check", *files, estimator)


def test_figure_of_the_pages_is_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: dict[str, Any] = {}
    exec(FILES["flops.py"], names)
    monkeypatch.setattr(static, "SECTIONS", [names["ENTRY"]])
    assert "FLOPs against depth K" in static.render(write_store(tmp_path)).page


def test_snippets_run() -> None:
    snippets = [code for code in PYTHON if not code.startswith("# ")]
    assert len(snippets) >= 2
    for code in snippets:
        exec(code.replace("range(100)", "range(2)"), {})


def test_commands_of_the_pages_exist() -> None:
    for name, text in TEXTS.items():
        shown = re.findall(r"^    (.*)", text, re.M) + re.findall(
            r"^```\n(.*?)^```", text, re.M | re.S
        )
        inline = [code for code in re.findall(r"`([^`\n]+)`", text) if " " in code]
        for command in COMMANDS.findall("\n".join([*shown, *inline])):
            for call in calls(command):
                assert not unknown_words(call), f"{name}: {call}"


def test_links_and_named_files_exist() -> None:
    for name, text in TEXTS.items():
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)", text):
            assert (ROOT / name).parent.joinpath(target).exists(), f"{name}: {target}"
        for target in re.findall(
            r"`((?:\.github|tests|tools|docs|harness|estimators)/[\w./-]*)`", text
        ):
            assert (ROOT / target).exists(), f"{name}: {target}"
        for module in re.findall(r"python -m ((?:tests|tools)[\w.]*)", text):
            assert (ROOT / f"{module.replace('.', '/')}.py").exists(), f"{name}: {module}"


def test_page_of_estimators_is_up_to_date() -> None:
    page = estimators_page.PAGE.read_text(encoding="utf-8")
    assert page == estimators_page.page(), "run `python -m tools.estimators_page`"
