"""The timeline of versions: which code ran where, and when it is proven, as the geometry of an SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

WIDTH, GUTTER, RIGHT = 960, 240, 12
_TOP, _ROW, _BAR = 34, 30, 16
_MAX_ROWS = 60
_STEPS = (
    timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1), timedelta(hours=6), timedelta(days=1), timedelta(days=7), timedelta(days=30), timedelta(days=91), timedelta(days=365),
)  # fmt: skip
_LABELS = 9


@dataclass(frozen=True)
class Span:
    """``row``: an enclave on a host. From ``first`` to ``last`` it is proven that it ran ``version``; None: no version was proven (a document that was refused, or none), at that time."""

    row: str
    first: datetime
    last: datetime
    version: str | None
    note: str = ""


@dataclass(frozen=True)
class Shape:
    """A bar (a version) or a mark (nothing proven) in the drawing. ``number``: the version's, in the legend."""

    x: float
    y: float
    width: float
    number: int | None
    title: str


@dataclass(frozen=True)
class Timeline:
    """All that is drawn. ``rows``: (label, y); ``ticks``: (label, x); ``versions``: number → name; ``left_out``: rows for which there is no room."""

    height: float
    rows: Sequence[tuple[str, float]]
    ticks: Sequence[tuple[str, float]]
    shapes: Sequence[Shape]
    versions: Mapping[int, str]
    left_out: int


def draw(spans: Sequence[Span]) -> Timeline | None:
    """The drawing of spans; None where there is nothing to draw."""
    if not spans:
        return None
    names = list(dict.fromkeys(one.row for one in sorted(spans, key=lambda one: (one.row, one.first))))
    kept = {name: _TOP + number * _ROW for number, name in enumerate(names[:_MAX_ROWS])}
    numbers = {
        name: number
        for number, name in enumerate(dict.fromkeys(one.version for one in sorted(spans, key=lambda one: one.first) if one.version), 1)
    }
    start, end = min(one.first for one in spans), max(one.last for one in spans)
    scale = _Scale(start, max(end, start + timedelta(minutes=1)))
    shapes = [_shape(one, kept[one.row], numbers, scale) for one in spans if one.row in kept]
    height = _TOP + len(kept) * _ROW + 6
    return Timeline(
        height,
        [(name, y + _ROW / 2) for name, y in kept.items()],
        scale.ticks(),
        shapes,
        {number: name for name, number in numbers.items()},
        len(names) - len(kept),
    )


@dataclass(frozen=True)
class _Scale:
    start: datetime
    end: datetime

    def x(self, time: datetime) -> float:
        return round(GUTTER + (WIDTH - GUTTER - RIGHT) * ((time - self.start) / (self.end - self.start)), 1)

    def ticks(self) -> list[tuple[str, float]]:
        step = next((one for one in _STEPS if (self.end - self.start) / one <= _LABELS), (self.end - self.start) / _LABELS)
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        at = epoch + -(-(self.start - epoch) // step) * step
        form = "%Y-%m-%d" if step >= timedelta(days=1) else "%m-%d %H:%M"
        found = []
        while at <= self.end:
            found.append((at.strftime(form), self.x(at)))
            at += step
        return found


def _shape(one: Span, y: float, numbers: Mapping[str, int], scale: _Scale) -> Shape:
    x = scale.x(one.first)
    date = f"{one.first:%Y-%m-%d %H:%M} to {one.last:%Y-%m-%d %H:%M} UTC" if one.first != one.last else f"{one.first:%Y-%m-%d %H:%M} UTC"
    title = f"{one.row}, {date}: {one.version or 'nothing proven'}{f' ({one.note})' if one.note else ''}"
    number = numbers[one.version] if one.version else None
    # A single document proves a moment; it must be seen all the same.
    return Shape(x, y + (_ROW - _BAR) / 2, max(round(scale.x(one.last) - x, 1), 3.0), number, title)
