"""What the README tells people to write and to type works."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^\.venv/bin/metagrad (run(?:.*\\\n)*.*)$", README, re.MULTILINE)


def test_third_party_files_run_as_written(tmp_path: Path) -> None:
    files = {code.split(maxsplit=2)[1]: code for code in PYTHON if code.startswith("# ")}
    assert sorted(files) == ["mine.py", "shrunk.py"]
    for name, code in files.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    assert len(COMMANDS) == 2
    metagrad = Path(sys.executable).parent / "metagrad"
    for command in COMMANDS:
        words = shlex.split(command.replace("\\\n", " "))
        done = subprocess.run(
            [metagrad, *words, "--tasks", "2"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "truncated(order=4)" in done.stdout or "shrunk" in done.stdout
        assert "failed" not in done.stdout


def test_training_loop_runs() -> None:
    (loop,) = [code for code in PYTHON if not code.startswith("# ")]
    done = subprocess.run([sys.executable, "-c", loop], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
