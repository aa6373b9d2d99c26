"""Draws charts of the page as SVG, by pygal.

Of what pygal makes, the drawing is kept: no styles, scripts and identifiers. Colours, fonts and
dark mode are the style sheet's, which a content security policy can name; each figure is told by
the `<title>` of its mark.
"""

from collections.abc import Mapping, Sequence
from math import floor, log10
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from pygal.graph.graph import Graph

_WIDTH: Final = 720
_HEIGHT: Final = 220
_SVG: Final = "{http://www.w3.org/2000/svg}"
_TICKS: Final = 4
_DOTS: Final = 60
_MARKS: Final = {"rect reactive tooltip-trigger", "dot reactive tooltip-trigger"}


class Period(NamedTuple):
    """What stands below a period, what it is called in full, and whether it may still change."""

    tick: str
    name: str
    is_open: bool


class Mark(NamedTuple):
    """What is told of a bar or a dot."""

    words: str
    is_open: bool


def bars(told: str, periods: Sequence[Period], named: Mapping[str, Sequence[int]]) -> str:
    """Return a chart of counts, a bar for each name in each period.

    `told` says in words what there is to see.
    """
    import pygal  # noqa: PLC0415 - only who draws waits for it

    highest = max(max(values) for values in named.values())
    chart = pygal.Bar(**_look(periods, _ticks(highest)), value_formatter=_count)
    for name, values in named.items():
        chart.add(name, list(values))
    marks = [
        Mark(f"{period.name}: {value:,} {name}", period.is_open)
        for name, values in named.items()
        for period, value in zip(periods, values, strict=True)
    ]
    return _drawing(chart, told, marks)


def rates(
    told: str,
    periods: Sequence[Period],
    shares: Sequence[float | None],
    lows: Sequence[float | None],
    highs: Sequence[float | None],
) -> str:
    """Return a chart of shares between 0 and 1, with the intervals in which they likely lie."""
    import pygal  # noqa: PLC0415 - as above

    highest = max((high for high in highs if high is not None), default=1.0)
    chart = pygal.Line(
        **_look(periods, _ticks(highest)), value_formatter=_whole_percent, allow_interruptions=True
    )
    chart.add("rate", list(shares))
    chart.add("low", list(lows), show_dots=False)
    chart.add("high", list(highs), show_dots=False)
    marks = [
        Mark(
            f"{period.name}: {percent(share)}, likely {percent(low)} to {percent(high)}",
            period.is_open,
        )
        for period, share, low, high in zip(periods, shares, lows, highs, strict=True)
        if share is not None and low is not None and high is not None
    ]
    return _drawing(chart, told, marks)


def percent(share: float) -> str:
    """Return a share in percent, as `13.7 %`, that no line breaks."""
    return f"{share * 100:.1f}\N{NO-BREAK SPACE}%"


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _whole_percent(share: float) -> str:
    return f"{share * 100:g} %"


def _ticks(highest: float) -> list[float]:
    """Return round numbers from zero to beyond the highest."""
    rough = max(highest, 1e-3) / _TICKS
    unit = 10.0 ** floor(log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    if isinstance(highest, int):
        step = max(round(step), 1)
    return [step * n for n in range(int(-(-highest // step)) + 1)] if highest else [0, step]


def _look(periods: Sequence[Period], ticks: Sequence[float]) -> dict[str, Any]:
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "margin_left": 34,
        "margin_right": 8,
        "margin_top": 12,
        "margin_bottom": 8,
        "show_legend": False,
        "js": [],
        "disable_xml_declaration": True,
        "x_labels": [period.tick for period in periods],
        "truncate_label": -1,
        "y_labels": ticks,
        "range": (0, ticks[-1]),
        "dots_size": 3 if len(periods) <= _DOTS else 1.5,
    }


def _drawing(chart: "Graph", told: str, marks: Sequence[Mark]) -> str:
    """Return the drawing alone, each mark with what is told of it."""
    root = ET.fromstring(chart.render(is_unicode=True))  # noqa: S314 - made a line ago
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        for child in [child for child in element if _is_dropped(child)]:
            element.remove(child)
    drawn = [element for element in root.iter() if element.get("class") in _MARKS]
    for element, mark in zip(drawn, marks, strict=True):
        element.set("class", "mark open" if mark.is_open else "mark")
        title = ET.SubElement(element, "title")
        title.text = mark.words + (", still open" if mark.is_open else "")
    root.attrib = {"viewBox": f"0 0 {_WIDTH} {_HEIGHT}", "role": "img", "aria-label": told}
    return ET.tostring(root, encoding="unicode")


def _is_dropped(element: ET.Element) -> bool:
    """Whether an element is no part of the drawing: styles, scripts, tooltips, what is empty."""
    name = element.tag.removeprefix(_SVG)
    if name in {"defs", "title", "desc"} or "tooltip" in element.get("class", ""):
        return element.get("class") not in _MARKS
    without_label = name == "g" and element.find(f"{_SVG}text[.='']") is not None
    return without_label or (name == "g" and len(element) == 0)
