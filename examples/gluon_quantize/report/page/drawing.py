# SPDX-License-Identifier: MIT
"""The network drawn: where its nodes stand, and what is written on its edges. The layout is grandalf's (Sugiyama)."""

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Tuple

from quantize.errors import ConfigError

WIDTH, HEIGHT = 190, 40
GAP_X, GAP_Y = 30, 44
MOST_LABELS, LINE_HEIGHT = 3, 11  # that fit between boxes
LETTERS = 26  # what fits into a box


@dataclass(frozen=True)
class Box:
    """A node: its name, its middle in pixels, and whether it is a layer that the table shows."""

    name: str
    x: float
    y: float
    layer: bool


@dataclass(frozen=True)
class Line:
    """An edge: its points in pixels, what is written on it, and whether integers run along it."""

    points: Tuple[Tuple[float, float], ...]
    text: str
    integers: bool


@dataclass(frozen=True)
class Label:
    """What is written where edges arrive, and the left end of its base line in pixels."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Drawing:
    """Boxes, lines and labels in a picture of a size."""

    boxes: List[Box]
    lines: List[Line]
    labels: List[Label]
    width: float
    height: float


def draw(edges: List[Mapping[str, Any]], layers: List[str]) -> Drawing:
    """The graph of a report, from top to bottom; `layers` are the nodes that the table shows."""
    places = _places(edges)
    left = min((x for x, _ in places.values()), default=0.0) - WIDTH / 2
    top = min((y for _, y in places.values()), default=0.0) - HEIGHT / 2
    at = {name: (x - left + GAP_X, y - top + GAP_Y / 2) for name, (x, y) in places.items()}
    boxes = [Box(name, x, y, name in layers) for name, (x, y) in at.items()]
    lines = [_line(edge, at) for edge in edges]
    return Drawing(boxes, lines, _labels(lines), max((box.x for box in boxes), default=0) + WIDTH / 2 + GAP_X,
                   max((box.y for box in boxes), default=0) + HEIGHT / 2 + GAP_Y / 2)


def short(name: str) -> str:
    """A name as a box shows it: of a long one the beginning, and more of the end, which tells it from others."""
    return name if len(name) <= LETTERS else f"{name[:8]}…{name[9 - LETTERS:]}"


def _line(edge: Mapping[str, Any], at: Mapping[str, Tuple[float, float]]) -> Line:
    (x0, y0), (x1, y1) = at[edge["from"]], at[edge["to"]]
    shape = "×".join(str(size) for size in edge["shape"])
    return Line(((x0, y0 + HEIGHT / 2), (x1, y1 - HEIGHT / 2)), f"{edge['format']} {shape}",
                edge["format"] != "float32")


def _labels(lines: List[Line]) -> List[Label]:
    """What the lines carry, above the box in which they end: lines that end together and carry the same say it once."""
    ends: Dict[Tuple[float, float], List[str]] = {}
    for line in lines:
        texts = ends.setdefault(line.points[-1], [])
        if line.text not in texts:
            texts.append(line.text)
    found = []
    for (x, y), texts in ends.items():
        rest = len(texts) - MOST_LABELS
        shown = texts if rest <= 0 else [f"and {rest + 1} more", *texts[:MOST_LABELS - 1]]
        found += [Label(x + 6, y - 8 - LINE_HEIGHT * number, text) for number, text in enumerate(shown)]
    return found


def library() -> Tuple[Any, ...]:
    """What the layout needs of grandalf; ConfigError where it is missing."""
    try:
        from grandalf.graphs import Edge, Graph, Vertex
        from grandalf.layouts import SugiyamaLayout, VertexViewer
    except ImportError:
        raise ConfigError("the report needs grandalf to draw the network: pip install "
                          "'gluon-quantize[report]'") from None
    return Graph, Vertex, Edge, SugiyamaLayout, VertexViewer


def _places(edges: List[Mapping[str, Any]]) -> Dict[str, Tuple[float, float]]:
    Graph, Vertex, Edge, SugiyamaLayout, VertexViewer = library()
    names = list(dict.fromkeys(name for edge in edges for name in (edge["from"], edge["to"])))
    vertices = {name: Vertex(name) for name in names}
    for vertex in vertices.values():
        vertex.view = VertexViewer(WIDTH, HEIGHT)
    # one edge between two nodes is enough for their places; several would be drawn over each other anyway
    pairs = dict.fromkeys((edge["from"], edge["to"]) for edge in edges)
    graph = Graph(list(vertices.values()), [Edge(vertices[start], vertices[end]) for start, end in pairs])
    places, offset = {}, 0.0
    for part in graph.C:
        layout = SugiyamaLayout(part)
        layout.xspace, layout.yspace = GAP_X, GAP_Y
        roots = [vertex for vertex in part.sV if not vertex.e_in()]
        layout.init_all(roots=roots, optimize=True)
        layout.draw(3)
        found = {vertex.data: vertex.view.xy for vertex in part.sV}
        shift = offset - min(x for x, _ in found.values())
        places.update({name: (x + shift, y) for name, (x, y) in found.items()})
        offset = max(x for x, _ in places.values()) + WIDTH + GAP_X
    return places
