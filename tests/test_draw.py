"""`gg.draw`: what a picture shows is what `grad` and `jvp` give, and nothing lies on another."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad.drawing import Picture
from gpugrad.drawing.layout import Rect
from gpugrad.drawing.svg import Plan
from gpugrad.errors import DtypeError, GradientError

SVG = "{http://www.w3.org/2000/svg}"


def olah(a: Any, b: Any) -> Any:
    c = a + b
    d = b + 1
    e = c * d
    return e


class Mix(gg.Function):
    """Three paths from one value to the next."""

    @staticmethod
    def forward(ctx: Any, a: Any, b: Any, c: Any) -> Any:
        return a * 2 + b * 3 + c * 4

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * 2, g * 3, g * 4


def paths(X: Any) -> Any:
    Y = Mix.apply(X, X, X)
    return Mix.apply(Y, Y, Y)


def neuron(w0: Any, x0: Any, w1: Any, x1: Any, w2: Any) -> Any:
    dot = w0 * x0 + w1 * x1 + w2
    f = gg.sigmoid(dot)
    return f


def chain(x: Any) -> Any:
    for _ in range(30):
        x = gg.sigmoid(x)
    return x


def fan(x: Any) -> Any:
    parts = [gg.sin(x * i) for i in range(1, 9)]
    s = parts[0]
    for part in parts[1:]:
        s = s + part
    return s * x


def tangle(x: Any) -> Any:
    choose = np.random.default_rng(0)
    values = [x]
    for _ in range(120):
        j, k = choose.integers(max(0, len(values) - 6), len(values), 2)
        a, b = values[j], values[k]
        ops = [lambda a, b: a + b, lambda a, b: gg.sin(a), lambda a, b: a * b]
        values.append(ops[choose.integers(3)](a, b))
    return values[-1] + values[-2] + values[-3]


def net(**how: Any) -> Picture:
    model = gg.nn.MLP([4, 8, 6, 3], generator=gg.random.Generator(0))
    x = np.random.default_rng(0).normal(size=(16, 4)).astype("f4")

    def loss(x: Any, y: Any) -> Any:
        return gg.nn.cross_entropy(model(x), y)

    return gg.draw(loss, x, np.arange(16) % 3, **how)


def trained() -> Any:
    """A training step with dropout and Adam, and its arguments."""
    model = gg.nn.MLP([4, 8, 3], dropout=0.5, generator=gg.random.Generator(0))
    optimizer = gg.optim.Adam(model, lr=0.1)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = gg.nn.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    x = np.random.default_rng(0).normal(size=(16, 4)).astype("f4")
    return gg.compile(step), (x, np.arange(16) % 3), model


def program() -> Picture:
    step, args, _ = trained()
    return gg.draw(step, *args)


PICTURES = {
    "program": program,
    "olah": lambda: gg.draw(olah, 2.0, 1.0),
    "forward": lambda: gg.draw(olah, 2.0, 1.0, mode="forward", wrt="b"),
    "paths": lambda: gg.draw(paths, 1.0),
    "neuron": lambda: gg.draw(neuron, 2.0, -1.0, -3.0, -2.0, -3.0),
    "chain": lambda: gg.draw(chain, 0.5),
    "fan": lambda: gg.draw(fan, 0.7),
    "tangle": lambda: gg.draw(tangle, 0.7),
    "layers": net,
    "layers open": lambda: net(collapse=False),
}


@pytest.fixture(scope="module", params=PICTURES)
def picture(request: pytest.FixtureRequest) -> Picture:
    return PICTURES[request.param]()


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def shown(picture: Picture) -> dict[str, float]:
    """The derivative at every value, by name."""
    found = {}
    for v in picture.graph.vertices:
        assert v.derivative is not None
        found[v.name] = number(v.derivative.brief())
    return found


def test_reverse_mode_is_one_pass_of_grad() -> None:
    found = shown(gg.draw(olah, 2.0, 1.0))
    assert found == {"a": 2, "b": 5, "c": 2, "d": 3, "e": 1}
    da, db = gg.grad(olah, (0, 1))(2.0, 1.0)
    assert (found["a"], found["b"]) == (da, db)


def test_forward_mode_is_one_pass_of_jvp() -> None:
    found = shown(gg.draw(olah, 2.0, 1.0, mode="forward", wrt="b"))
    assert found == {"a": 0, "b": 1, "c": 1, "d": 1, "e": 5}
    assert found["e"] == gg.jvp(olah, (2.0, 1.0), (0.0, 1.0))[1]


@pytest.mark.parametrize("f", [chain, fan, tangle])
def test_gradients_of_larger_graphs(f: Any) -> None:
    x = 0.7
    at_x = shown(gg.draw(f, x, mode="reverse"))["x"]
    assert at_x == pytest.approx(float(gg.grad(f)(x)), rel=1e-3)
    last = gg.draw(f, x, mode="forward", wrt="x").graph.vertices[-1]
    assert last.derivative is not None
    assert number(last.derivative.brief()) == pytest.approx(at_x, rel=1e-3)


def test_local_partials_are_the_ops_own() -> None:
    graph = gg.draw(olah, 2.0, 1.0).graph
    names = {v.key: v.name for v in graph.vertices}
    found = {
        (names[e.source], names[e.target]): number(e.partial.brief())
        for e in graph.edges
        if e.partial is not None
    }
    assert found == {("a", "c"): 1, ("b", "c"): 1, ("b", "d"): 1, ("c", "e"): 2, ("d", "e"): 3}


def test_the_sum_over_paths_and_its_factors() -> None:
    assert list(gg.draw(olah, 2.0, 1.0).graph.formulas) == [
        "∂e/∂a = αδ = 1·2 = 2",
        "∂e/∂b = βδ + γε = 1·2 + 1·3 = 5",
    ]
    text = " ".join(gg.draw(paths, 1.0).graph.formulas)
    assert "αδ + αε + αζ + βδ + βε + βζ + γδ + γε + γζ" in text
    assert "(α + β + γ)(δ + ε + ζ) = (2 + 3 + 4)·(2 + 3 + 4)" in text
    assert "= 81" in text


def test_the_neuron_of_the_lecture() -> None:
    """CS231n: sigmoid(2·−1 + −3·−2 − 3) = 0.73."""
    picture = gg.draw(neuron, 2.0, -1.0, -3.0, -2.0, -3.0)
    f = picture.graph.vertex("f")
    assert f.value is not None
    assert number(f.value.brief()) == pytest.approx(0.7311, abs=1e-4)
    assert shown(picture)["w0"] == pytest.approx(-0.1966, abs=1e-4)


def test_a_tensor_on_the_tape() -> None:
    x = gg.asarray([3.0], requires_grad=True)
    y = (x * x).sum()
    found = shown(gg.draw(y))
    assert found["x"] == 6
    y.backward()
    with pytest.raises(GradientError, match="retain_graph=True"):
        gg.draw(y)


def test_layers_are_one_box_each() -> None:
    kinds = [v.kind for v in net().graph.vertices]
    assert kinds.count("layer") == 5
    assert "parameter" not in kinds
    opened = net(collapse=False).graph
    assert sum(v.kind == "parameter" for v in opened.vertices) == 6
    assert all(v.shape == (16, 8) for v in opened.vertices if v.name in ("v1", "v2"))


def test_a_function_is_called_once() -> None:
    calls = []

    def f(x: Any) -> Any:
        calls.append(x)
        return x * 2

    picture = gg.draw(f, 1.0)
    picture.svg(), picture.html(), picture.dot()
    assert len(calls) == 1


@pytest.mark.parametrize("name", [name for name in PICTURES if name != "program"])
def test_a_picture_is_the_same_each_time(name: str) -> None:
    first, again = PICTURES[name](), PICTURES[name]()
    assert (first.svg(), first.html(), first.dot()) == (again.svg(), again.html(), again.dot())


def test_a_picture_tells_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are named as seen from the working directory, elsewhere by the file alone."""
    here = Path(__file__)
    for folder, name in ((here.parents[1], "tests/test_draw.py"), (tmp_path, "test_draw.py")):
        monkeypatch.chdir(folder)
        picture = gg.draw(neuron, 2.0, -1.0, -3.0, -2.0, -3.0)
        assert re.fullmatch(rf"{name}:\d+", picture.graph.vertex("f").line)
        assert str(here.parent) not in picture.html() + picture.dot()


def test_times_only_where_they_are_asked_for() -> None:
    assert all(v.seconds is None for v in gg.draw(fan, 0.7).graph.vertices)
    done = [v for v in gg.draw(fan, 0.7, times=True).graph.vertices if v.kind == "op"]
    assert all(v.seconds is not None and v.seconds > 0 for v in done)
    timed = net(times=True)
    assert all(v.seconds for v in timed.graph.vertices if v.kind == "layer")
    assert "time since the op before" in timed.svg()
    with pytest.raises(DtypeError, match="nothing can be timed"):
        gg.draw(gg.sum(gg.asarray([3.0], requires_grad=True)), times=True)


# Programs


def test_looking_at_a_program_trains_nothing() -> None:
    step, args, model = trained()
    twin, _, other = trained()
    gg.draw(step, *args)
    for _ in range(3):
        assert step(*args).item() == twin(*args).item()
    for name, value in model.state_dict().items():
        assert value.numpy().tobytes() == other.state_dict()[name].numpy().tobytes()


@pytest.mark.parametrize("native", [True, False])
def test_passes_are_those_that_run(native: bool) -> None:
    step, args, _ = trained()
    with gg.config.override(native=native):
        passes, equations = gg.draw(step, *args).views
        stats = step.recording(*args).stats()
    done = [v for v in passes.vertices if v.kind not in ("input", "parameter")]
    assert len(done) == stats["steps"]
    assert sum(v.kind == "call" for v in done) == stats["calls"]
    assert all(v.seconds is not None and v.seconds > 0 for v in done)
    first = next(v for v in done if v.text == "x @ 0.weightᵀ")
    assert (first.shape, first.bytes) == ((16, 8), 4 * (16 * 4 + 8 * 4 + 16 * 8))
    updated = {v.name for v in done if v.output}
    assert updated == {"step()", "0.weight′", "0.bias′", "3.weight′", "3.bias′"}
    assert "writes exp_avg of 0.weight (8, 4) float32, 128 B" in passes.vertex("0.weight′").line
    assert not any("not fused" in note for note in passes.notes)
    assert sum(v.kind == "op" for v in equations.vertices) == stats["equations"]


def test_what_is_not_fused_is_said() -> None:
    passes, _ = gg.draw(gg.compile(lambda x: gg.argsort(gg.exp(x))), np.ones(4, "f4")).views
    assert passes.notes[-1] == "not fused: argsort (no native form)"


def test_rows_cut_over_threads_are_drawn_and_timed() -> None:
    model = gg.nn.MLP([64, 96, 10], "relu", generator=gg.random.Generator(0))

    optimizer = gg.optim.SGD(model, lr=0.1)

    @gg.compile(threads=2)
    def whole(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = gg.nn.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    x = np.random.default_rng(0).normal(size=(1024, 64)).astype("f4")
    args = (x, np.arange(1024) % 10)
    if not gg.backend.native.available():
        pytest.skip("no native core")
    assert "rows" in whole.recording(*args).stats()["segments"]
    graph = gg.draw(whole, *args).graph
    assert any("batch of 1024 is cut" in note for note in graph.notes)
    assert all(v.seconds for v in graph.vertices if v.kind in ("pass", "fused"))


def test_passes_in_words() -> None:
    """Lookups, stacks of products, constants; labels that do not fit raise as the step does."""
    table, stack = gg.nn.Embedding(10, 4), gg.ones((3, 4, 5))

    @gg.compile
    def step(i: Any, x: Any) -> Any:
        with gg.no_grad():
            return table(i), x @ stack, x * 2.5, x.sum(axis=0)

    x = np.ones((3, 8, 4), "f4")
    graph = gg.draw(step, np.arange(5), x).graph
    found = {v.text: v for v in graph.vertices}
    wanted = {"within(i)", "getitem(weight, t1)", "x @ stack", "x · 2.5", "sum(x) over rows"}
    assert wanted <= found.keys()
    assert (found["x @ stack"].shape, found["x @ stack"].notes) == ((3, 8, 5), ("3 products",))
    with pytest.raises(gg.errors.BoundsError):
        gg.draw(step, np.arange(11), x)


def test_a_program_alone_and_methods() -> None:
    step, args, model = trained()
    graph = gg.draw(step.program(*args)).graph
    assert graph.label.startswith("as traced: ")
    assert graph.vertex("0.weight").shape == dict(model.named_parameters())["0.weight"].shape

    class Holder:
        @gg.compile
        def double(self, x: Any) -> Any:
            return x * 2

    holder = Holder()
    assert gg.draw(holder.double, np.ones(3)).graph.vertex("double()").output
    reverse = gg.draw(gg.compile(olah), 2.0, 1.0, mode="reverse")
    assert shown(reverse)["b"] == 5


# What is written


def test_nothing_overlaps(picture: Picture) -> None:
    for graph in picture.views:
        layout = Plan(graph).layout
        boxes = list(layout.boxes.values())
        boxes += [route.label for route in layout.routes if route.label is not None]
        assert not [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
        whole = Rect(layout.width / 2, layout.height / 2, layout.width, layout.height)
        for box in boxes:
            assert abs(box.x - whole.x) + box.width / 2 <= whole.width / 2 + 1e-6
            assert abs(box.y - whole.y) + box.height / 2 <= whole.height / 2 + 1e-6
        assert len(layout.routes) == len(graph.edges)


def test_svg(picture: Picture) -> None:
    root = ElementTree.fromstring(picture.svg())
    assert root.tag == f"{SVG}svg"
    text = "".join(root.itertext())
    for v in picture.graph.vertices:
        assert v.name in text
    assert alone(picture.svg())


def test_html(picture: Picture) -> None:
    page = picture.html()
    assert page.lower().startswith("<!doctype html>")
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) == len(picture.views)
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    labels = [view.label for view in picture.views]
    assert len(set(labels)) == len(labels)
    assert alone(page)


def alone(text: str) -> bool:
    """Nothing is fetched from anywhere: of addresses there is only SVG's name."""
    rest = text.replace("http://www.w3.org/2000/svg", "")
    return not re.search(r'https?://|@import|url\((?!#)|src="(?!data:)', rest)


def test_dot(picture: Picture) -> None:
    text = picture.dot()
    assert text.startswith("digraph")
    assert text.rstrip().endswith("}")
    assert text.count("{") == text.count("}")
    assert len(re.findall(r"^  \S+ -> \S+", text, re.MULTILINE)) == len(picture.graph.edges)


def test_save(tmp_path: Path) -> None:
    picture = gg.draw(olah, 2.0, 1.0)
    for suffix, text in (
        (".svg", picture.svg()),
        (".html", picture.html()),
        (".DOT", picture.dot()),
    ):
        path = picture.save(tmp_path / f"e{suffix}")
        assert path.read_text() == text
    with pytest.raises(DtypeError, match=r"\.svg, \.html or \.dot"):
        picture.save(tmp_path / "e.png")
    with pytest.raises(OSError, match="absent"):
        picture.save(tmp_path / "absent" / "e.svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.DOT", "e.html", "e.svg"]
    assert picture._repr_svg_() == picture.svg()
    assert "<svg" in picture._repr_html_()


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: gg.draw(3), DtypeError, ["only a function, a module or a tensor", "int"]),
        (lambda: gg.draw(gg.ones(2)), GradientError, ["requires_grad"]),
        (lambda: gg.draw(olah, 2, 1), GradientError, ["floating argument", "2.0 instead of 2"]),
        (lambda: gg.draw(olah, 2.0, 1.0, mode="back"), GradientError, ["'back'", "'reverse'"]),
        (lambda: gg.draw(olah, 2.0, 1.0, mode="forward", wrt="q"), GradientError, ["'a', 'b'"]),
        (lambda: gg.draw(lambda x: x * 2, np.ones(3), mode="reverse"), GradientError, ["(3,)"]),
        (lambda: gg.draw(gg.sum, np.ones(3), mode="forward"), GradientError, ["one number"]),
    ],
)
def test_errors(call: Any, kind: type[Exception], words: list[str]) -> None:
    with pytest.raises(kind) as caught:
        call()
    text = str(caught.value)
    assert text.startswith("[draw] ")
    assert [word for word in words if word not in text] == [], text
