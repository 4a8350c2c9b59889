"""A small project of eight commits: three of them make its estimator worse, each in its own way."""

from pathlib import Path

from tests.support.repositories import git

FIRST = '''"""Our estimator."""

from dataclasses import dataclass, replace

from estimators import BilevelProblem, Estimator, MetaGradient, Params, create, register
from estimators.hvp import hvp

OPTIONS = {"order": 2, "batching": "'loop'"}
kept = []


@register("ours")
@dataclass(frozen=True)
class Ours(Estimator):
    """A binomial estimate, scaled."""

    def estimate(self, problem: BilevelProblem, params: Params) -> MetaGradient:
        text = ", ".join(f"{name}={value}" for name, value in OPTIONS.items())
        result = create(f"binom({text})").estimate(problem, params)
        # more comes here
        return result
'''
_PRODUCT = 'hvp(problem.inner_loss, params, found.gradient, engine="reverse")'

# Subject of each commit, and what it puts in the place of what.
COMMITS = (
    ("Our estimator", "", ""),
    ("Docs: what it is for", '"""Our estimator."""', '"""Our estimator, for tests."""'),
    ("Rename the result", "result", "found"),
    ("Check the curvature", "# more comes here", f"{_PRODUCT}\n        # more comes here"),
    (
        "Options in the order of the alphabet",
        '{"order": 2, "batching": "\'loop\'"}',
        '{"batching": "\'loop\'", "order": 2}',
    ),
    ("Simplify", '"order": 2', '"order": 1'),
    (
        "Keep the last results",
        "# more comes here",
        "kept.append(dict(found.gradient))",
    ),
    ("Readme", "", ""),
)
WORSE = {
    "Check the curvature": "flops",
    "Simplify": "bias",
    "Keep the last results": "retained_memory",
}
"""What gets worse at which commit."""


def write_project(parent: Path) -> tuple[Path, dict[str, str]]:
    """Create the repository; return its folder, and the hash of each commit by subject."""
    folder = parent / "project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    text, hashes = FIRST, {}
    for number, (subject, old, new) in enumerate(COMMITS):
        assert not old or old in text, subject
        text = text.replace(old, new) if old else text
        (folder / "ours.py").write_text(text, encoding="utf-8")
        (folder / "README.md").write_text(f"{number // 7}", encoding="utf-8")
        git(folder, "add", ".")
        date = f"2026-03-{number + 1:02}T12:00:00+0000"
        git(folder, "commit", "-q", "-m", subject, date=date)
        hashes[subject] = git(folder, "rev-parse", "HEAD")
    return folder, hashes
