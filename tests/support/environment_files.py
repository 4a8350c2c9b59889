"""The files that an environment is read from, and what it always tells."""

from pathlib import Path

ALWAYS = {
    *("commit", "changes", "machine", "system", "processor", "cores", "memory", "python"),
    *("threads", "packages", "devices"),
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root
