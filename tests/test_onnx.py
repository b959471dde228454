"""ONNX export: onnxruntime and the reference evaluator give our numbers, for any number of rows."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpugrad as gg
from gpugrad import nn
from gpugrad.errors import DtypeError, TraceError
from gpugrad.onnx import export
from gpugrad.random import Generator

onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")
onnxruntime = pytest.importorskip("onnxruntime")


def normal(*shape: int, dtype: str = "f4") -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


class Recurrent(nn.Module):
    """Slices, a table, zeros of as many rows, two inputs and two outputs."""

    def __init__(self) -> None:
        draw = Generator(0)
        self.outer, self.inner = (nn.Linear(n, 6, generator=draw) for n in (4, 6))
        self.table = nn.Embedding(5, 4, generator=draw)

    def forward(self, x: Any, codes: Any) -> Any:
        h = gg.zeros((x.shape[0], 6))
        for k in range(3):
            h = gg.tanh(self.outer(x[:, k] + self.table(codes[:, k])) + self.inner(h))
        return h, nn.softmax(h)


class Shapes(nn.Module):
    """What moves values, reduces and compares them."""

    def forward(self, x: Any) -> Any:
        spread = gg.broadcast_to(x.mean(axis=1)[:, None], (x.shape[0], 2))
        parts = [
            gg.where(x > 0, x, -x)[:, 1:-1] * x.max(axis=1, keepdims=True),
            spread,
            x[..., ::-2] - x[:, -1:],
            gg.reshape(x[:, None, :], (-1, 4)),
            gg.permute_dims(gg.reshape(x, (-1, 2, 2)), (0, 2, 1)).sum(axis=-1),
            x[:, 0][:, None] @ gg.ones((1, 3)),
            gg.min(x, axis=1, keepdims=True) + gg.logaddexp(x, 0.5 * x),
        ]
        return gg.concat(parts, axis=1), ((x > 0) & ~(x < 1)) | (x == 2), x.astype(gg.int32)


class Pointwise(nn.Module):
    """One operation each in a column; those that only mean something for x > 1 get that."""

    def forward(self, x: Any) -> Any:
        big = 1.5 + gg.abs(x)
        small = gg.tanh(x)
        many = [gg.exp, gg.expm1, gg.sin, gg.cos, gg.tan, gg.sinh, gg.cosh, gg.asinh, gg.atan]
        many += [gg.floor, gg.ceil, gg.round, gg.trunc, gg.sign, gg.square, gg.reciprocal]
        columns = [f(x) for f in many]
        columns += [f(big) for f in (gg.log, gg.log1p, gg.log2, gg.log10, gg.sqrt, gg.acosh)]
        columns += [f(small) for f in (gg.asin, gg.acos, gg.atanh)]
        columns += [big**x, gg.maximum(x, small), gg.minimum(x, 0.1), gg.hypot(x, big)]
        columns += [t.astype(x.dtype) for t in (gg.isnan(x), gg.isfinite(x), gg.isinf(x))]
        columns += [(x != small) * x]
        return gg.concat(columns, axis=1)


CASES: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {
    **{
        name: (nn.MLP([4, 8, 3], name, generator=Generator(0)), (normal(9, 4),))
        for name in nn.ACTIVATIONS
    },
    "float64": (nn.MLP([4, 8, 3], dtype=gg.float64), (normal(9, 4, dtype="f8"),)),
    "normalised": (
        nn.Sequential(
            nn.Linear(4, 6),
            nn.BatchNorm1d(6),
            nn.Dropout(0.5),
            nn.LayerNorm(6),
            nn.Linear(6, 3, bias=False),
            nn.LogSoftmax(),
        ),
        (normal(9, 4),),
    ),
    "three axes": (nn.Linear(4, 3), (normal(9, 2, 4),)),
    "recurrent": (Recurrent(), (normal(9, 3, 4), np.arange(27).reshape(9, 3) % 5)),
    "shapes": (Shapes(), (normal(9, 4),)),
    "pointwise": (Pointwise(), (normal(9, 4),)),
}


@pytest.mark.parametrize("opset", [17, 18, 21])
@pytest.mark.parametrize("name", CASES)
def test_numbers_are_ours(name: str, opset: int) -> None:
    model, inputs = CASES[name]
    model.train()
    file = export(model, inputs if len(inputs) > 1 else inputs[0], opset=opset)
    assert model.training
    want = model.eval()(*[gg.asarray(x) for x in inputs])
    want = want if isinstance(want, tuple) else (want,)
    feed = dict(zip(["input", "input_1"], inputs, strict=False))
    session = onnxruntime.InferenceSession(
        file.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for got in (session.run(None, feed), reference.ReferenceEvaluator(file).run(None, feed)):
        for a, b in zip(got, want, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(a, b.detach().numpy(), 1e-5, 1e-5)


def test_names_shapes_and_the_file(tmp_path: Path) -> None:
    model = nn.MLP([4, 8, 3])
    path = tmp_path / "model.onnx"
    export(model, normal(1, 4), path)
    file = onnx.load(path)
    assert {x.name for x in file.graph.initializer} == set(model.state_dict())
    assert (file.opset_import[0].version, file.ir_version) == (17, 8)
    (given,), (result,) = file.graph.input, file.graph.output
    assert (given.name, result.name) == ("input", "output")
    dims = given.type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[1].dim_value) == ("batch", 4)


class Wrong(nn.Module):
    def __init__(self, forward: Any) -> None:
        self.forward = forward


REFUSED = {
    "rows as a number": lambda x: x - x.sum(axis=0) / x.shape[0],
    "rows as a table": lambda x: x + gg.arange(x.shape[0], dtype=gg.float32)[:, None],
    "more for more rows": lambda x: x if x.shape[0] < 6 else gg.exp(x),
    "no counterpart": lambda x: gg.cumulative_sum(x, axis=1),
    "no opcode": lambda x: gg.atan2(x, x + 1),
    "a value looked at": lambda x: x if float(x.sum()) > 0 else -x,
}


@pytest.mark.parametrize("forward", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_written_is_refused(forward: Any) -> None:
    with pytest.raises(TraceError):
        export(Wrong(forward), normal(3, 4))


def test_bad_opsets_and_a_missing_package() -> None:
    for opset in (16, 22):
        with pytest.raises(DtypeError, match="opset"):
            export(nn.Linear(2, 2), normal(1, 2), opset=opset)
    code = """
import sys
sys.modules["onnx"] = None
import gpugrad as gg
try:
    gg.onnx.export(gg.nn.Linear(2, 2), gg.zeros((1, 2)))
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "gpugrad[onnx]" in run.stdout
