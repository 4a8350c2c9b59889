"""Text from results in Markdown, which would make links, images or mentions of it."""

import re

# Marks of Markdown, of Streamlit's colours and formulas, and of mentions; dots of addresses; and
# what would begin a list or a heading.
_MARKS = re.compile(r"[\\`*_{}\[\]<>#+!|~$:&@^]|(?<=[A-Za-z])\.(?=[A-Za-z])|^[-=]|(?<=^\d)[.)]")


def plain(text: str) -> str:
    r"""Escapes text, to be read as it is written.

    Args:
        text: of any kind; all of it becomes one line.

    Example:
        >>> print(plain("a_b <c>"))
        a\_b \<c\>
    """
    return _MARKS.sub(r"\\\g<0>", " ".join(text.split()))


def code(text: object) -> str:
    r"""Writes text as code, which sites that know of people look through for no mention of them.

    Args:
        text: of any kind; all of it becomes one line, and may stand in a table.

    Example:
        >>> print(code("@you | `x`"))
        `` @you \| `x` ``
    """
    line = " ".join(str(text).split()).replace("|", "\\|")
    fences = re.findall(r"`+", line)
    if not fences:
        return f"`{line}`" if line else ""
    fence = "`" * (len(max(fences, key=len)) + 1)
    return f"{fence} {line} {fence}"
