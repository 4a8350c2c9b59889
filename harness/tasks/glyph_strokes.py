"""The glyph classes: named sets of pen strokes, grouped into alphabets and split by alphabet."""

import gzip
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

Stroke = tuple[tuple[int, int], ...]
Face = tuple[Stroke, ...]


@dataclass(frozen=True)
class GlyphClass:
    """One character: its drawings ("faces", several for Latin letters and digits, else one).

    `name` is unique; `alphabet` lies wholly in one `split`. A face is a tuple
    of strokes, a stroke a tuple of (x, y) pen positions in Hershey's integer units, y downwards.

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
    """All classes in file order; a class's place here is its index everywhere else.

    Source: the Hershey fonts (data/NOTICE-hershey.txt), taken by extract_hershey.py.
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
# Of ten characters that follow one another, whatever their alphabet.
_DEALT = (
    "train",
    "train",
    "test",
    "train",
    "train",
    "validation",
    "train",
    "train",
    "test",
    "train",
)


@cache
def split_indices(split: str, held_out: str = "alphabets") -> tuple[int, ...]:
    """Indices into `glyph_classes()` of the classes of `split`; empty for an unknown split."""
    if held_out == "characters":
        places = range(len(glyph_classes()))
        return tuple(i for i in places if _DEALT[i % len(_DEALT)] == split)
    return tuple(i for i, glyph in enumerate(glyph_classes()) if glyph.split == split)


def unpack_face(text: str) -> Face:
    """A face from its text form: points "x,y" parted by spaces, strokes by semicolons.

    Example:
        >>> unpack_face("0,-12 8,9;-5,2 5,2")
        (((0, -12), (8, 9)), ((-5, 2), (5, 2)))
    """
    strokes = []
    for stroke in text.split(";"):
        pairs = (point.split(",") for point in stroke.split())
        strokes.append(tuple((int(x), int(y)) for x, y in pairs))
    return tuple(strokes)


def pack_face(face: Face) -> str:
    """The text form of `face`; the inverse of `unpack_face`."""
    return ";".join(" ".join(f"{x},{y}" for x, y in stroke) for stroke in face)
