"""Draw the glyph classes as jittered 28x28 images.

Only sums, products, quotients and square roots are used, one elementary operation at a time, and
random numbers are raw PCG64 words: so the pixels are the same to the bit wherever arithmetic
follows IEEE 754. Sines, exponentials, matrix products and library distributions do not promise
that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from harness.tasks.glyph_strokes import Face, glyph_classes

Floats = NDArray[np.float64]
Images = NDArray[np.uint8]

SIZE = 28
SAMPLES = 20  # images per class
GLYPH_EXTENT = 20.0  # pixels: the longer side of an undistorted glyph
PEN = 0.8  # pixels: half the thickness of the pen
LONGEST_SEGMENT = 5.0  # pixels: longer ones are cut up, so that straight lines can bend

# One standard deviation of each distortion at jitter 1.
ROTATION = 0.16  # radians
SHEAR = 0.16
STRETCH = 0.16  # relative, each axis separately
SHIFT = 2.2  # pixels
WARP = 1.6  # pixels: a smooth bending of the whole drawing
STROKE = 0.45  # pixels: the ends and the middle of each stroke separately
PEN_SPREAD = 0.15  # relative

_BELLS = 7 + 2 * 16  # those for affine map and pen, and those for the warp
_DRAWING_STREAM = (0, 1)  # separates these random streams from all others


@dataclass(frozen=True)
class _Outline:
    """A face ready to draw.

    Points [p, 2] are in pixels around 0, each with its stroke's number and its place along the
    stroke in [0, 1]; segments [s, 2] join points by number.
    """

    points: Floats
    stroke: NDArray[np.intp]
    place: Floats
    segments: NDArray[np.intp]


def outline(face: Face) -> _Outline:
    """Scale a face to `GLYPH_EXTENT`, centre it on its bounding box, cut up long segments."""
    ends = np.array([point for stroke in face for point in stroke], dtype=np.float64)
    low, high = ends.min(axis=0), ends.max(axis=0)
    scale = GLYPH_EXTENT / (high - low).max()
    points: list[Floats] = []
    strokes: list[int] = []
    places: list[float] = []
    segments: list[tuple[int, int]] = []
    for number, stroke in enumerate(face):
        corners = (np.array(stroke, dtype=np.float64) - (low + high) / 2) * scale
        first = len(points)
        points.append(corners[0])
        for start, end in pairwise(corners):
            step = end - start
            pieces = int(np.sqrt(step[0] * step[0] + step[1] * step[1]) / LONGEST_SEGMENT) + 1
            points.extend(start + step * ((k + 1) / pieces) for k in range(pieces))
        count = len(points) - first
        strokes.extend([number] * count)
        places.extend(k / max(count - 1, 1) for k in range(count))
        # A stroke of one point is a dot: a segment from the point to itself.
        segments.extend(
            (k, min(k + 1, len(points) - 1)) for k in range(first, first + max(count - 1, 1))
        )
    return _Outline(np.array(points), np.array(strokes), np.array(places), np.array(segments))


@cache
def _outlines(class_index: int) -> tuple[_Outline, ...]:
    return tuple(outline(face) for face in glyph_classes()[class_index].faces)


def _bells(key: tuple[int, ...], count: int) -> Floats:
    """Return `count` bell-shaped numbers of mean 0 and variance 1, in [-2 sqrt 3, 2 sqrt 3]."""
    words = np.random.PCG64(np.random.SeedSequence(key)).random_raw(4 * count)
    u = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    u = u.reshape(count, 4)
    return (u[:, 0] + u[:, 1] + u[:, 2] + u[:, 3] - 2.0) * 1.7320508075688772


def _distort(shape: _Outline, bells: Floats, jitter: float) -> tuple[Floats, Floats, Floats]:
    """Return points x, y [n, p] in pixels from the top left of the canvas, and pens [n]."""
    b = jitter * bells
    x = np.broadcast_to(shape.points[:, 0], (len(b), len(shape.points)))
    y = np.broadcast_to(shape.points[:, 1], x.shape)

    bend = b[:, 7:_BELLS, None]
    across = _bernstein3(shape.points[:, 0] / GLYPH_EXTENT + 0.5)
    down = _bernstein3(shape.points[:, 1] / GLYPH_EXTENT + 0.5)
    for i in range(4):
        for j in range(4):
            weight = WARP * across[i] * down[j]
            x = x + weight * bend[:, 4 * i + j]
            y = y + weight * bend[:, 16 + 4 * i + j]

    tug = b[:, _BELLS:].reshape(len(b), 6, -1)[:, :, shape.stroke]
    for k, weight in enumerate(_bernstein2(shape.place)):
        x = x + STROKE * weight * tug[:, k]
        y = y + STROKE * weight * tug[:, 3 + k]

    # The half angle's tangent stands in for the angle: exact arithmetic, and never beyond a turn.
    half = 0.5 * ROTATION * b[:, 0, None]
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    x = x * _stretch(b[:, 1, None])
    y = y * _stretch(b[:, 2, None])
    x = x + SHEAR * b[:, 3, None] * y
    x, y = cos * x - sin * y, sin * x + cos * y

    pen = PEN * np.clip(1 + PEN_SPREAD * b[:, 4], 0.5, 2.0)
    x = _place(x, SHIFT * b[:, 5], pen)
    y = _place(y, SHIFT * b[:, 6], pen)
    return x, y, pen


def _place(along: Floats, shift: Floats, pen: Floats) -> Floats:
    """Shift coordinates [n, p] from around 0 onto the canvas, shrunk if need be to fit."""
    reach = (SIZE / 2 - 0.5 - pen)[:, None]
    low, high = along.min(axis=1, keepdims=True), along.max(axis=1, keepdims=True)
    shrink = np.minimum(1.0, 2 * reach / np.maximum(high - low, reach))
    room = reach - (high - low) * shrink / 2
    middle = np.clip((low + high) * shrink / 2 + shift[:, None], -room, room)
    placed: Floats = (along - (low + high) / 2) * shrink + middle + SIZE / 2
    return placed


def _stretch(bell: Floats) -> Floats:
    """A positive factor near 1 whose inverse is as likely as itself."""
    a = np.clip(0.5 * STRETCH * bell, -0.4, 0.4)
    return (1 + a) / (1 - a)


def _bernstein2(t: Floats) -> tuple[Floats, ...]:
    s = 1 - t
    return s * s, 2 * s * t, t * t


def _bernstein3(t: Floats) -> tuple[Floats, ...]:
    s = 1 - t
    return s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t


def _ink(x: Floats, y: Floats, pen: Floats, segments: NDArray[np.intp]) -> Images:
    """Draw segments between points x, y [n, p] with pens [n], anti-aliased, as [n, 28, 28].

    The darkness of a pixel follows from the distance of its middle to the nearest segment.
    """
    grid = np.arange(SIZE, dtype=np.float32) + np.float32(0.5)
    px = grid - x.astype(np.float32)[:, :, None]
    py = grid - y.astype(np.float32)[:, :, None]
    nearest = np.full((len(x), SIZE, SIZE), np.inf, dtype=np.float32)
    for a, b in segments:
        # Pixel positions relative to the segment's start; columns and rows apart while they can.
        qx, qy = px[:, None, a, :], py[:, a, :, None]
        dx, dy = (px[:, a, :1] - px[:, b, :1])[:, None], (py[:, a, :1] - py[:, b, :1])[:, None]
        length = np.maximum(dx * dx + dy * dy, np.float32(1e-12))
        along = qx * (dx / length) + qy * (dy / length)
        np.minimum(np.maximum(along, np.float32(0), out=along), np.float32(1), out=along)
        ex, ey = qx - along * dx, qy - along * dy
        ex *= ex
        ey *= ey
        ex += ey
        np.minimum(nearest, ex, out=nearest)
    edge = pen.astype(np.float32)[:, None, None] + np.float32(0.5)
    ink = np.clip(edge - np.sqrt(nearest), np.float32(0), np.float32(1))
    levels: Images = (ink * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return levels


def draw_face(face: Face) -> Images:
    """Draw one face without jitter: uint8 [28, 28], ink 255 on background 0."""
    shape = outline(face)
    x, y, pen = _distort(shape, np.zeros((1, _BELLS + 6 * len(face))), 0.0)
    image: Images = _ink(x, y, pen, shape.segments)[0]
    return image


def draw_class(class_index: int, samples: Sequence[int], jitter: float = 1.0) -> Images:
    """Draw images of one class: uint8 [len(samples), 28, 28], ink 255 on background 0.

    An image depends only on class, sample and jitter. Sample k shows face k modulo the number of
    faces. `jitter` scales every distortion: 0 is the clean drawing, 1 the default, at which
    raw-pixel nearest neighbours do about as well as on Omniglot.

    Example:
        >>> draw_class(0, range(20)).shape
        (20, 28, 28)
    """
    shapes = _outlines(class_index)
    images = np.zeros((len(samples), SIZE, SIZE), dtype=np.uint8)
    for face, shape in enumerate(shapes):
        rows = [row for row, sample in enumerate(samples) if sample % len(shapes) == face]
        if not rows:
            continue
        count = _BELLS + 6 * (int(shape.stroke[-1]) + 1)
        keys = [(*_DRAWING_STREAM, class_index, samples[row]) for row in rows]
        bells = np.array([_bells(key, count) for key in keys])
        images[rows] = _ink(*_distort(shape, bells, jitter), shape.segments)
    return images


def draw_all(jitter: float = 1.0) -> Images:
    """Draw all samples of all classes: uint8 [classes, 20, 28, 28]."""
    return np.stack([draw_class(k, range(SAMPLES), jitter) for k in range(len(glyph_classes()))])
