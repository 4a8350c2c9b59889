"""The glyph classes: named sets of pen strokes in alphabets, and their splits."""

import gzip
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

Stroke = tuple[tuple[int, int], ...]
Face = tuple[Stroke, ...]


@dataclass(frozen=True)
class GlyphClass:
    """A character and its drawings ("faces": several for Latin letters and digits, else one).

    `name` is unique; `alphabet` lies wholly in one `split`. A face is a tuple of strokes, a stroke
    a tuple of (x, y) pen positions in Hershey's integer units, y downwards.

    Example:
        >>> glyph_classes()[0].name
        'latin/A'
    """

    name: str
    alphabet: str
    split: str
    faces: tuple[Face, ...]


@cache
def glyph_classes() -> tuple[GlyphClass, ...]:
    """Return all classes in the order of the file; their places are their indices elsewhere.

    Source: the Hershey fonts (data/NOTICE-hershey.txt), extracted by tools/extract_hershey.py.
    """
    packed = files("harness.tasks") / "data" / "hershey.json.gz"
    content = json.loads(gzip.decompress(packed.read_bytes()))
    return tuple(
        GlyphClass(
            name=entry["name"],
            alphabet=entry["alphabet"],
            split=content["splits"][entry["alphabet"]],
            faces=tuple(unpack_face(face) for face in entry["faces"]),
        )
        for entry in content["classes"]
    )


HELD_OUT = ("alphabets", "characters")
# The splits of ten characters that follow one another, whatever their alphabet.
_DEALT = (
    *("train", "train", "test", "train", "train"),
    *("validation", "train", "train", "test", "train"),
)


@cache
def split_indices(split: str, held_out: str = "alphabets") -> tuple[int, ...]:
    """Return the indices of a split's classes; none for an unknown split."""
    if held_out == "characters":
        places = range(len(glyph_classes()))
        return tuple(i for i in places if _DEALT[i % len(_DEALT)] == split)
    return tuple(i for i, glyph in enumerate(glyph_classes()) if glyph.split == split)


def unpack_face(text: str) -> Face:
    """Return a face from text: points "x,y" separated by spaces, strokes by semicolons.

    Example:
        >>> unpack_face("0,-12 8,9;-5,2 5,2")
        (((0, -12), (8, 9)), ((-5, 2), (5, 2)))
    """
    strokes = []
    for stroke in text.split(";"):
        pairs = (point.split(",") for point in stroke.split())
        strokes.append(tuple((int(x), int(y)) for x, y in pairs))
    return tuple(strokes)
