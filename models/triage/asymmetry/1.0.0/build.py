"""Build ``model.onnx``, ``golden.npz`` and ``card.json`` of asymmetry 1.0.0.

A development tool: it needs `onnx`, which the running system does not have. Run it from anywhere
with ``python build.py [FOLDER]``; without an argument it rewrites the files beside itself.

The graph is drawn by hand, not trained. Its input is a head on a canonical grid, axes (z, y, x)
towards the crown, the back and the patient's left, straightened so that the plane x = 0 is the
head's own plane of symmetry; -1 marks points outside the scan. It compares the deep brain with its
mirror image, whatever the contrast, and measures the fluid on either side.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

NAME, VERSION = "asymmetry", "1.0.0"
SHAPE = (32, 52, 44)
SPACING = 4.0  # mm
ABOVE_TOP = 8.0  # mm between the crown and the topmost plane: room for an error in finding it
VOXEL_ML = SPACING**3 / 1000
THRESHOLD = 0.5
HALF_ML = 12.0  # asymmetric volume that scores 0.5; a normal head stays below 5 ml
OUTPUTS = {
    "asymmetry_index": "1",
    "asymmetric_volume": "ml",
    "fluid_left": "ml",
    "fluid_right": "ml",
    "midline_shift": "mm",
}

# mm from the crown, from the middle of the head, from the plane of symmetry
Z = (np.arange(SHAPE[0]) - (SHAPE[0] - 1)) * SPACING + ABOVE_TOP
Y = (np.arange(SHAPE[1]) - (SHAPE[1] - 1) / 2) * SPACING
X = (np.arange(SHAPE[2]) - (SHAPE[2] - 1) / 2) * SPACING

Triple = tuple[float, float, float]
# ellipsoids as centre and radii, mm along x, y, z
DEEP: tuple[Triple, Triple] = ((0, 0, -70), (46, 58, 32))  # where the two halves are compared
# where a lateral ventricle lies or grows into; x without its sign
BODY: tuple[Triple, Triple] = ((18, -15, -68), (28, 54, 32))
ATRIUM: tuple[Triple, Triple] = ((28, 25, -80), (22, 32, 30))


class Graph:
    """Collects nodes and constants; every method returns the name of its result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def op(
        self, kind: str, *inputs: str, outputs: int = 1, name: str = "", **attributes: Any
    ) -> Any:
        names = [name or f"n{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def smooth(self, x: str, width: int) -> str:
        """Box mean, one axis after the other: far cheaper than a cube."""
        for axis in range(3):
            kernel = [width if a == axis else 1 for a in range(3)]
            pads = [k // 2 for k in kernel] * 2
            x = self.op("AveragePool", x, kernel_shape=kernel, pads=pads, count_include_pad=1)
        return x

    def ramp(self, x: str, start: float, width: float) -> str:
        """0 below start, 1 above start + width."""
        shifted = self.op("Sub", x, self.constant(start))
        scaled = self.op("Div", shifted, self.constant(width))
        return self.op("Clip", scaled, self.constant(0), self.constant(1))

    def bell(self, x: str, width: float) -> str:
        scaled = self.op("Div", x, self.constant(width))
        return self.op("Exp", self.op("Neg", self.op("Mul", scaled, scaled)))

    def axis(self, values: NDArray[Any], place: int) -> str:
        shape = [1] * 5
        shape[place] = -1
        return self.constant(values.reshape(shape))

    def beyond(self, x: str, limit: float) -> str:
        return self.op("Greater", x, self.constant(limit))

    def short_of(self, x: str, limit: float) -> str:
        return self.op("Less", x, self.constant(limit))

    def ellipsoid(self, x: NDArray[Any], centre: Triple, radii: Triple) -> str:
        terms = []
        for values, place, c, r in zip((x, Y, Z), (4, 3, 2), centre, radii, strict=True):
            terms.append(self.axis(((values - c) / r) ** 2, place))
        return self.short_of(self.op("Sum", *terms), 1)

    def number(self, mask: str) -> str:
        return self.op("Cast", mask, to=TensorProto.FLOAT)

    def millilitres(self, x: str, mask: str, name: str, share: float = 1.0) -> None:
        """Sum over a mask, as a volume."""
        inside = self.op("Mul", x, self.number(mask))
        summed = self.op("ReduceSum", inside, keepdims=0)
        scaled = self.op("Mul", summed, self.constant(VOXEL_ML * share))
        self.op("Reshape", scaled, self.constant([1], np.int64), name=name)


def within(values: NDArray[Any], low: float, high: float) -> tuple[int, int]:
    """First and last-but-one index of the values in a closed interval."""
    places = np.flatnonzero((values >= low) & (values <= high))
    return int(places[0]), int(places[-1]) + 1


def crop(g: Graph, x: str, z: tuple[int, int], y: tuple[int, int], across: tuple[int, int]) -> str:
    starts, ends = zip(z, y, across, strict=True)
    return g.op("Slice", x, *(g.constant(v, np.int64) for v in (starts, ends, [2, 3, 4])))


def ventricles(g: Graph) -> str:
    """Mask of where ventricular fluid counts: not the midline's cisterns and fissures."""
    x, y, z = g.axis(np.abs(X), 4), g.axis(Y, 3), g.axis(Z, 2)
    near = g.op("Or", g.ellipsoid(np.abs(X), *BODY), g.ellipsoid(np.abs(X), *ATRIUM))
    fissure = g.op("And", g.short_of(x, 5), g.op("Or", g.beyond(z, -54), g.beyond(y, -6)))
    behind = g.op("And", g.beyond(y, 0), g.short_of(z, -72))
    cistern = g.op("And", g.short_of(x, 9), behind)
    return g.op("And", near, g.op("Not", g.op("Or", fissure, cistern)))


def contrast(g: Graph, known: str) -> str:
    """Logarithm of the signal over that of the tissue around it: T1 or T2, near the coil or far."""
    # a box of nothing but brain in any head; its median is the first guess at tissue
    box = within(Z, -92, -30), within(Y, -50, 50), within(X, -40, 40)
    flat = g.constant([-1], np.int64)
    values = g.op("Reshape", crop(g, "volume", *box), flat)
    count = int(np.prod([end - start for start, end in box]))
    ordered, _ = g.op("TopK", values, g.constant([count], np.int64), outputs=2)
    seen = g.op("ReduceSum", g.op("Reshape", crop(g, known, *box), flat), keepdims=1)
    # points outside the scan are negative and come last
    half = g.op("Cast", g.op("Mul", seen, g.constant(0.5)), to=TensorProto.INT64)
    median = g.op("Gather", ordered, half, axis=0)
    reference = g.op("Max", median, g.constant(1e-6))
    ratio = g.op("Clip", g.op("Div", "volume", reference), g.constant(0.1), g.constant(4))
    level = g.op("Log", ratio)
    # air, bone and black fluid say nothing about the tissue's brightness
    trusted = g.op("Mul", g.number(g.beyond(ratio, 0.11)), known)
    weight = g.op("Mul", g.bell(level, 0.4), trusted)
    for _ in range(2):  # the second time without what the first found to be fluid
        above = g.smooth(g.smooth(g.op("Mul", weight, level), 7), 7)
        below = g.smooth(g.smooth(weight, 7), 7)
        around = g.op("Div", above, g.op("Max", below, g.constant(1e-3)))
        local = g.op("Sub", level, around)
        weight = g.op("Mul", g.bell(local, 0.3), trusted)
    return g.op("Mul", g.op("Clip", local, g.constant(-1), g.constant(1)), known)


def mirror(g: Graph, x: str) -> str:
    return g.op("Gather", x, g.constant(np.arange(SHAPE[2])[::-1], np.int64), axis=4)


def shift(g: Graph, local: str, known: str) -> None:
    """Where the axis of symmetry lies locally, at the thalami and the third ventricle.

    Both sides are compared about thirteen axes, 2 mm apart. Fluid is left out: an enlarged
    ventricle would pull the axis to its own side, while it pushes the tissue to the other.
    """
    box = within(Z, -80, -64), within(Y, -50, 40), (0, SHAPE[2])
    moves = np.arange(-6, 7)
    other = SHAPE[2] - 1 - np.arange(SHAPE[2])[None, :] + moves[:, None]
    near = np.abs(X[None, :] - moves[:, None] * SPACING / 2) < 18
    near &= (other >= 0) & (other < SHAPE[2])
    index = g.constant(np.clip(other, 0, SHAPE[2] - 1), np.int64)

    def both(x: str) -> tuple[str, str]:
        here = g.op("Unsqueeze", x, g.constant([4], np.int64))
        return here, g.op("Gather", x, index, axis=4)

    tissue, seen = crop(g, local, *box), crop(g, known, *box)
    fluid = g.ramp(g.op("Abs", tissue), 0.2, 0.2)
    usable = g.op("Mul", g.op("Sub", g.constant(1), fluid), seen)
    here, there = both(tissue)
    weight = g.op("Mul", g.op("Min", *both(usable)), g.constant(near))
    gap = g.op("Min", g.op("Abs", g.op("Sub", here, there)), g.constant(0.3))
    axes = g.constant([0, 1, 2, 3, 5], np.int64)
    above = g.op("ReduceSum", g.op("Mul", weight, gap), axes, keepdims=0)
    below = g.op("ReduceSum", weight, axes, keepdims=0)
    cost = g.op("Div", above, g.op("Max", below, g.constant(1)))
    best = g.op("ArgMin", cost, axis=0, keepdims=1)

    def beside(step: int) -> str:
        moved = g.op("Add", best, g.constant([step], np.int64))
        last = len(moves) - 1
        return g.op("Clip", moved, g.constant(0, np.int64), g.constant(last, np.int64))

    left, middle, right = (g.op("Gather", cost, beside(step), axis=0) for step in (-1, 0, 1))
    # a parabola through the three lowest costs finds the axis between the steps
    rise = g.op("Sub", left, right)
    bend = g.op("Sub", g.op("Add", left, right), g.op("Mul", middle, g.constant(2)))
    part = g.op("Div", rise, g.op("Max", g.op("Mul", bend, g.constant(2)), g.constant(1e-6)))
    part = g.op("Clip", part, g.constant(-0.5), g.constant(0.5))
    place = g.op("Add", g.op("Cast", best, to=TensorProto.FLOAT), part)
    steps = g.op("Sub", place, g.constant((len(moves) - 1) / 2))
    g.op("Mul", steps, g.constant(SPACING / 2), name="midline_shift")


def build() -> onnx.ModelProto:
    g = Graph()
    known = g.number(g.op("GreaterOrEqual", "volume", g.constant(0)))
    local = contrast(g, known)
    pair = g.op("Mul", known, mirror(g, known))

    even = g.smooth(local, 3)
    gap = g.op("Mul", g.op("Abs", g.op("Sub", even, mirror(g, even))), pair)
    # every difference is seen twice, once on either side
    g.millilitres(g.ramp(gap, 0.25, 0.3), g.ellipsoid(X, *DEEP), "asymmetric_volume", share=0.5)
    rest = g.op("Add", "asymmetric_volume", g.constant(HALF_ML))
    g.op("Div", "asymmetric_volume", rest, name="asymmetry_index")

    fluid = g.ramp(g.op("Abs", local), 0.35, 0.25)
    place, across = ventricles(g), g.axis(X, 4)
    g.millilitres(fluid, g.op("And", place, g.beyond(across, 0)), "fluid_left")
    g.millilitres(fluid, g.op("And", place, g.short_of(across, 0)), "fluid_right")
    shift(g, local, known)

    graph = helper.make_graph(
        g.nodes,
        f"{NAME}-{VERSION}",
        [helper.make_tensor_value_info("volume", TensorProto.FLOAT, [1, 1, *SHAPE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in OUTPUTS],
        g.constants,
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="spinecho",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def drawn_head(left: float, right: float, shift: float) -> NDArray[np.int8]:
    """A head of ellipsoids: half-widths of its lateral ventricles and shift of its middle, mm."""
    z, y, x = np.meshgrid(Z, Y, X, indexing="ij")

    def inside(across: Any, centre: Triple, radii: Triple) -> NDArray[np.bool_]:
        terms = zip((across, y, z), centre, radii, strict=True)
        return np.asarray(sum(((v - c) / r) ** 2 for v, c, r in terms) < 1)

    head = np.zeros(SHAPE)
    for value, radii in ((90, (78, 96, 76)), (15, (72, 90, 70)), (70, (67, 84, 65))):
        head[inside(x, (0, 0, -76), radii)] = value
    # something for the local axis of symmetry to be found by
    middle = x - shift * np.exp(-((x / 30) ** 2))
    head[head == 70] += (8 * np.cos(middle / 6) + 5 * np.sin(y / 9) + 3 * np.sin(z / 7))[head == 70]
    for side, width in ((1, left), (-1, right)):
        head[inside(side * x, (8 + width / 2, -8, -66), (width, 34, 16))] = 20
    head *= 1 + 0.002 * x + 0.001 * y
    head[:2] = -1  # the lowest planes lie outside the scan
    return np.round(head).astype(np.int8)


def run(model: bytes, volume: NDArray[np.int8]) -> list[float]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    out = session.run(list(OUTPUTS), {"volume": volume[None, None].astype(np.float32)})
    return [float(value[0]) for value in out]


def card(model: bytes, golden: bytes) -> dict[str, Any]:
    return {
        "name": NAME,
        "version": VERSION,
        "title": "Left–right asymmetry of a brain volume",
        "intended_use": (
            "Raises the reading priority of an MR head whose deep halves differ strongly, as with "
            "one enlarged lateral ventricle. It flags for priority; every study is read in full."
        ),
        "is": "left–right asymmetry of a brain volume; a deliberately simple placeholder graph",
        "is_not": "a trained network, a diagnosis, a medical device; it misses what is symmetrical",
        "family": "hand-drawn image arithmetic",
        "files": {
            "model.onnx": hashlib.sha256(model).hexdigest(),
            "golden.npz": hashlib.sha256(golden).hexdigest(),
        },
        "input": {
            "name": "volume",
            "shape": list(SHAPE),
            "spacing_mm": SPACING,
            "axes": ["z towards the crown", "y towards the back", "x towards the patient's left"],
            "origin": "x = 0 is the plane of symmetry, y = 0 the middle of the head",
            "above_top_mm": ABOVE_TOP,
            "outside": -1,
        },
        "outputs": OUTPUTS,
        "score": "asymmetry_index",
        "threshold": THRESHOLD,
        "golden_tolerance": 1e-3,
        "plausibility": {
            "min_coverage": 0.8,
            "region_mm": [[-100, -40], [-50, 50], [-40, 40]],
            "min_symmetry": 0.5,
            "width_mm": [105, 210],
            "length_mm": [130, 260],
            "max_crown_ratio": 0.75,
        },
        "eligibility": {
            "modality": "MR",
            "min_slices": 12,
            "max_spacing_mm": 10.0,
            "min_field_mm": 120.0,
        },
    }


def main(folder: Path) -> None:
    model = build().SerializeToString(deterministic=True)
    volumes = np.stack([drawn_head(16, 5, -5), drawn_head(7, 7, 0)])
    expected = np.array([run(model, volume) for volume in volumes], dtype=np.float32)
    (folder / "model.onnx").write_bytes(model)
    np.savez_compressed(folder / "golden.npz", volumes=volumes, expected=expected)
    golden = (folder / "golden.npz").read_bytes()
    text = json.dumps(card(model, golden), indent=2, ensure_ascii=False)
    (folder / "card.json").write_text(text + "\n", encoding="utf-8")
    for row in expected:
        print(dict(zip(OUTPUTS, row.round(3).tolist(), strict=True)))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
