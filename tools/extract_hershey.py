"""Write harness/tasks/data/hershey.json.gz, the glyph classes, from the Hershey-Fonts package.

Run with `Hershey-Fonts` (2.1.0) installed:

    python -m tools.extract_hershey

The output is the same to the byte each time, given the same package and zlib.
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from HersheyFonts import HersheyFonts
from numpy.typing import NDArray

from harness.tasks.glyph_images import draw_face
from harness.tasks.glyph_strokes import Face

TARGET = Path(__file__).parents[1] / "harness" / "tasks" / "data" / "hershey.json.gz"
SAME = 0.9  # correlation of clean drawings from which two glyphs count as one
SMALLEST = 6  # Hershey units; a capital is 21 high. Dots, commas and quotes are below
THINNEST = 3  # Hershey units across the longest direction: plain lines are below

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
LATIN_FONTS = [
    *("futural", "futuram", "rowmans", "rowmand", "rowmant", "timesr", "timesrb", "timesi"),
    *("timesib", "cursive", "scripts", "scriptc"),
]
BLACKLETTER_FONTS = ["gothiceng", "gothicger", "gothicita", "gothgbt", "gothgrt", "gothitt"]


def run_of(first: int, end: int) -> str:
    """Return the slots numbered `first` to before `end`; slot 0 is the space."""
    return "".join(chr(32 + k) for k in range(first, end))


@dataclass(frozen=True)
class Alphabet:
    """The fonts that hold an alphabet, each with the characters of its slots.

    `merged`: the glyphs of a slot in all fonts are the faces of one class. Else each is another
    class, as the same slot need not hold the same letter in two fonts.
    """

    name: str
    split: str
    places: list[tuple[str, str]]
    merged: bool = False


# Of two look-alikes the one in the earlier alphabet stays.
ALPHABETS = [
    Alphabet("latin", "train", [(font, LETTERS) for font in LATIN_FONTS], merged=True),
    Alphabet("digits", "train", [(font, DIGITS) for font in LATIN_FONTS], merged=True),
    Alphabet(
        "punctuation",
        "train",
        [(font, "!#$%&()*+;<=>?@[]~") for font in LATIN_FONTS],
        merged=True,
    ),
    Alphabet("blackletter", "train", [(font, LETTERS + DIGITS) for font in BLACKLETTER_FONTS]),
    Alphabet("greek", "validation", [("greekc", LETTERS)]),
    Alphabet("cyrillic", "test", [("cyrilc_1", LETTERS), ("cyrillic", LETTERS + "$%&[]^_`{|}~")]),
    Alphabet("kanji", "train", [("japanese", run_of(2, 27))]),
    Alphabet("hiragana", "train", [("japanese", run_of(33, 113))]),
    Alphabet("katakana", "test", [("japanese", run_of(113, 193))]),
    Alphabet("astrology", "validation", [("astrology", "!#$%&'*+-/:;<=>?@[]^_`{|}~")]),
    Alphabet("music", "test", [("music", "\"#$%&'()*+,-./;<=>?@")]),
    Alphabet("mathematics", "train", [("mathlow", "!\"$&':;>?@^_`|~" + LETTERS[26:])]),
    Alphabet("meteorology", "train", [("meteorology", "!\"#$&'()+:;<=>^_`|~")]),
    Alphabet("marks", "train", [("symbolic", run_of(1, 95)), ("markers", LETTERS)]),
]


def read_fonts() -> dict[str, dict[str, Face]]:
    """Return every glyph by font and slot, with repeated points of strokes removed."""
    fonts = {}
    reader = HersheyFonts()
    for font in sorted(reader.default_font_names):
        reader.load_default_font(font)
        fonts[font] = {
            slot: tuple(
                tuple(p for k, p in enumerate(stroke) if k == 0 or p != stroke[k - 1])
                for stroke in glyph.strokes
                if stroke
            )
            for slot, glyph in reader.all_glyphs.items()
        }
    return fonts


def usable(face: Face) -> bool:
    """Return whether a face has some shape: not empty, no dot, no straight line."""
    points = np.array([point for stroke in face for point in stroke], dtype=np.float64)
    if len(points) == 0 or np.ptp(points, axis=0).max() < SMALLEST:
        return False
    # The narrowest extent over all directions, to a few degrees.
    angles = np.linspace(0, np.pi, 60, endpoint=False)
    widths = np.ptp(points @ np.stack([np.cos(angles), np.sin(angles)]), axis=0)
    return bool(widths.min() >= THINNEST)


def standardised(face: Face) -> NDArray[np.float64]:
    """Return the clean drawing as a vector of mean 0 and length 1: products are correlations."""
    pixels = draw_face(face).astype(np.float64).ravel()
    pixels -= pixels.mean()
    return np.asarray(pixels / np.linalg.norm(pixels))


def candidates(fonts: dict[str, dict[str, Face]]) -> list[tuple[str, str, list[Face]]]:
    """Return name, alphabet and faces of all usable classes, look-alikes still among them."""
    blank = fonts["japanese"][" "]  # a lozenge fills that font's empty slots
    classes: list[tuple[str, str, list[Face]]] = []
    for alphabet in ALPHABETS:
        groups: dict[str, list[Face]] = {}
        for font, slots in alphabet.places:
            for slot in slots:
                face = fonts[font].get(slot, ())
                label = slot if slot.isascii() and slot.isprintable() else str(ord(slot) - 32)
                if not alphabet.merged:
                    label = f"{font}-{label}"
                if face != blank and usable(face):
                    groups.setdefault(f"{alphabet.name}/{label}", []).append(face)
        classes.extend((name, alphabet.name, faces) for name, faces in groups.items())
    return classes


def without_look_alikes(
    classes: list[tuple[str, str, list[Face]]],
) -> list[tuple[str, str, list[Face]]]:
    """Return each class all of whose faces differ from all classes before it."""
    distinct: list[tuple[str, str, list[Face]]] = []
    seen: list[NDArray[np.float64]] = []
    for name, alphabet, faces in classes:
        vectors: list[NDArray[np.float64]] = []
        own: list[Face] = []
        clash = False
        for face in faces:
            vector = standardised(face)
            clash = clash or any(float(vector @ other) >= SAME for other in seen)
            if not any(float(vector @ other) >= SAME for other in vectors):
                vectors.append(vector)
                own.append(face)
        if not clash:
            distinct.append((name, alphabet, own))
            seen.extend(vectors)
    return distinct


def pack_face(face: Face) -> str:
    """Return the text form of a face; the inverse of `unpack_face`."""
    return ";".join(" ".join(f"{x},{y}" for x, y in stroke) for stroke in face)


def main() -> None:
    """Write the data file."""
    classes = without_look_alikes(candidates(read_fonts()))
    content = {
        "splits": {alphabet.name: alphabet.split for alphabet in ALPHABETS},
        "classes": [
            {"name": name, "alphabet": alphabet, "faces": [pack_face(face) for face in faces]}
            for name, alphabet, faces in classes
        ],
    }
    text = json.dumps(content, indent=1) + "\n"
    TARGET.write_bytes(gzip.compress(text.encode("ascii"), compresslevel=9, mtime=0))


if __name__ == "__main__":
    main()
