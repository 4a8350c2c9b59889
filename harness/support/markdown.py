"""Escape text for Markdown, which would turn it into links, images or mentions."""

import re

# Marks of Markdown, and of Streamlit's colours and formulas; dots of addresses; what would begin a
# list or a heading.
_MARKS = re.compile(
    r"[\\`*_{}\[\]<>#+!|~$&^]|:(?=\S)|(?<=[A-Za-z])\.(?=[A-Za-z])|(?<=www)\."
    r"|^[-=]|(?<!.)\d+(?=[.)]( |$))"
)
_NO_BREAK = "\u2060"  # takes no room: who is named is not called, and an address is none


def plain(text: str) -> str:
    r"""Escape text, so that it is shown as it is.

    Example:
        >>> print(plain("a_b <c>"))
        a\_b \<c\>
    """
    line = _MARKS.sub(_escaped, " ".join(text.split()))
    return line.replace("@", f"@{_NO_BREAK}")


def _escaped(mark: re.Match[str]) -> str:
    return f"{mark[0]}\\" if mark[0].isdecimal() else f"\\{mark[0]}"


def code(text: object) -> str:
    r"""Format text as code, in which no site looks for mentions of people.

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
