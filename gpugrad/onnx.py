"""Models as ONNX files, from the program a traced call of them is. Imports nn and compiler.

Elementwise ops are written as what their own `forward` does, so a new one needs nothing here.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpugrad import nn
from gpugrad.compiler import compile
from gpugrad.compiler.expr import TRUTHS, Builder, Expr, Unsupported, lines, symbolic
from gpugrad.compiler.program import Program, uniform
from gpugrad.compiler.trace import Eqn, Traced
from gpugrad.errors import DtypeError, MissingDependency, TraceError, message
from gpugrad.state import grad_mode
from gpugrad.tree import flatten

_ROWS = (5, 7)  # numbers of rows a model is traced with: what differs goes with the batch
_SHAPING = ("reshape", "broadcast_to")
_IR = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}  # opset → the IR version of its time


def export(
    model: nn.Module,
    example: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    opset: int = 17,
) -> Any:
    """``model`` as an ``onnx.ModelProto``, checked, and written to ``path`` if there is one.

    Evaluation mode, with the weights as they are now. ``example`` is an input, or a tuple of them,
    of the shape and dtype to come; its first axis is the batch and may have any size later. Inputs
    are called ``input``, ``input_1``, …, outputs ``output``, ``output_1``, …, weights as in
    ``model.state_dict()``.

    Raises `TraceError` for an operation that has no counterpart, and where the number of rows
    decides what is computed; `DtypeError` for an opset other than 17 to 21; MissingDependency
    without onnx. Format: ONNX, https://onnx.ai/onnx.

    >>> import gpugrad as gg
    >>> file = export(gg.nn.MLP([4, 8, 3]), gg.zeros((1, 4)))
    >>> [node.op_type for node in file.graph.node][:3]
    ['Gemm', 'Sigmoid', 'Gemm']
    """
    if opset not in _IR:
        raise DtypeError(message("onnx.export", "opsets 17 to 21 are written", opset, "17"))
    try:
        import onnx
    except ImportError as cause:
        rule, hint = "models are written by onnx", 'pip install "gpugrad[onnx]"'
        raise MissingDependency(message("onnx.export", rule, cause, hint)) from cause
    examples = example if isinstance(example, tuple) else (example,)
    programs = _traced(model, examples)
    file: Any = _Graph(onnx, model, programs, opset).file()
    onnx.checker.check_model(file, full_check=True)
    if path is not None:
        Path(path).write_bytes(file.SerializeToString())
    return file


def _traced(model: nn.Module, examples: Sequence[Any]) -> list[Program]:
    """What the model does, for two numbers of rows."""
    training = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        found = []
        for n in _ROWS:
            arrays = [np.asarray(x) for x in examples]
            rows = [np.zeros((n, *a.shape[1:]), a.dtype) for a in arrays]
            with grad_mode(False):
                found.append(compile(lambda *xs: flatten(model(*xs))[0]).program(*rows))
    finally:
        for module, mode in training:
            module.training = mode
    if _fixed(found[0]) != _fixed(found[1]):
        raise TraceError(message("onnx.export", "the number of rows decides what the model does"))
    return found


def _fixed(program: Program) -> list[Any]:
    """What must not depend on the number of rows: operations, settings and numbers."""
    seen: list[Any] = [(np.ndim(a), uniform(a)) for a in program.constants.values()]
    for eqn in program.eqns:
        settings = {k: v for k, v in eqn.params.items() if eqn.op.name not in _SHAPING}
        numbers = [x for x in eqn.inputs if type(x) is not Traced]
        seen.append((eqn.op.name, settings, numbers))
    return seen


class _Graph:
    """ONNX's nodes and initializers, as they are collected from a program."""

    def __init__(self, onnx: Any, model: nn.Module, programs: list[Program], opset: int) -> None:
        self.helper, self.numpy = onnx.helper, onnx.numpy_helper
        self.opset = opset
        self.nodes: list[Any] = []
        self.initializers: dict[Any, Any] = {}
        self.program, other = programs
        # The same value when there are more rows, for its shape.
        self.twin: dict[Traced, Traced] = dict(
            zip(self.program.arguments, other.arguments, strict=True)
        )
        for a, b in zip(self.program.eqns, other.eqns, strict=True):
            self.twin.update(zip(a.outputs, b.outputs, strict=True))
        self.name: dict[Any, str] = {}
        for i, var in enumerate(self.program.arguments):
            self.name[var] = f"input_{i}" if i else "input"
        known = {id(value): name for name, value in model._walk()}
        for slot in self.program.captured:
            self._initializer(slot.var, slot.data, known.get(id(slot.holder)))
        for var, twin in zip(self.program.constants, other.constants, strict=True):
            array = self.program.constants[var]
            self.twin[var] = twin
            if var.shape == twin.shape and np.array_equal(array, other.constants[twin]):
                self._initializer(var, array)
            elif var.shape != twin.shape and uniform(array) is not None:
                self.name[var] = self._node("Expand", self._number(array.flat[0]), self._shape(var))
            else:
                rule = "a table of numbers depends on the number of rows"
                raise TraceError(message("onnx.export", rule, f"a constant of shape {var.shape}"))

    def file(self) -> Any:
        for eqn in self.program.eqns:
            self._write(eqn)
        outputs = []
        for i, var in enumerate(self.program.outputs):
            outputs.append(f"output_{i}" if i else "output")
            self.nodes.append(self.helper.make_node("Identity", [self.name[var]], [outputs[-1]]))
        graph = self.helper.make_graph(
            self.nodes,
            "gpugrad",
            [self._described(self.name[var], var) for var in self.program.arguments],
            [self._described(n, v) for n, v in zip(outputs, self.program.outputs, strict=True)],
            list(self.initializers.values()),
        )
        opsets = [self.helper.make_opsetid("", self.opset)]
        return self.helper.make_model(graph, opset_imports=opsets, ir_version=_IR[self.opset])

    def _described(self, name: str, var: Traced) -> Any:
        twin = self.twin.get(var, var)
        dims = [a if a == b else "batch" for a, b in zip(var.shape, twin.shape, strict=True)]
        return self.helper.make_tensor_value_info(name, self._type(var.dtype), dims)

    def _type(self, dtype: Any) -> Any:
        return self.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    # Names of values

    def _initializer(self, key: Any, array: Any, name: str | None = None) -> str:
        if key not in self.initializers:
            self.name[key] = name or f"constant_{len(self.initializers)}"
            host = np.ascontiguousarray(np.asarray(array)).reshape(np.shape(array))
            self.initializers[key] = self.numpy.from_array(host, self.name[key])
        return self.name[key]

    def _integers(self, *values: int) -> str:
        return self._initializer(("integers", values), np.array(values, np.int64))

    def _node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def _shape(self, var: Traced) -> str:
        """The shape of ``var`` as an input of a node; what goes with the batch is read from it."""
        twin = self.twin[var]
        if var.shape == twin.shape:
            return self._integers(*var.shape)
        batch = self._node("Gather", self._node("Shape", "input"), self._integers(0), axis=0)
        parts = []
        for a, b in zip(var.shape, twin.shape, strict=True):
            if a == b:
                parts.append(self._integers(a))
            elif (a % _ROWS[0], b) == (0, a // _ROWS[0] * _ROWS[1]):
                parts.append(self._node("Mul", batch, self._integers(a // _ROWS[0])))
            else:
                raise TraceError(message("onnx.export", "no shape grows with the rows like this"))
        return self._node("Concat", *parts, axis=0)

    # Equations

    def _write(self, eqn: Eqn) -> None:
        write = _WRITERS.get(eqn.op.name)
        if write is not None:
            self.name[eqn.outputs[0]] = write(self, eqn)
            return
        forward = getattr(eqn.op, "pointwise", None)
        try:
            if forward is None or len(eqn.outputs) > 1:
                raise Unsupported("it is not elementwise")
            self.name[eqn.outputs[0]] = self._elementwise(eqn, forward)
        except Unsupported as why:
            rule = f"{eqn.op.name} has no counterpart in ONNX: {why}"
            hint = "another operation, or this part outside the model"
            raise TraceError(message("onnx.export", rule, hint=hint)) from why

    def _elementwise(self, eqn: Eqn, forward: Callable[..., Any]) -> str:
        builder = Builder()
        operands = [
            (builder.operand(x, False), x.dtype, x.shape) if type(x) is Traced else x
            for x in eqn.inputs
        ]
        (root,) = symbolic(forward, builder, operands, eqn.params)
        dtype = np.dtype(eqn.outputs[0].dtype)
        if dtype == np.bool_:
            given = [x.dtype for x in eqn.inputs if type(x) is Traced]
            dtype = np.result_type(*given)
        known: dict[int, tuple[str, Any]] = {}
        for expr in lines([root]):
            known[id(expr)] = self._expression(expr, known, dtype)
        return known[id(root)][0]

    def _expression(self, expr: Expr, known: dict[int, tuple[str, Any]], dtype: Any) -> Any:
        """The name of an expression's value, and its dtype."""
        if expr.op == "const":
            return self._number(expr.value, dtype), dtype
        if expr.op == "in":
            return self.name[expr.value], np.dtype(expr.value.dtype)
        truth = np.dtype(np.bool_)
        wanted = [dtype] * len(expr.args)
        if expr.op in ("and", "or", "xor", "not"):
            wanted = [truth] * len(expr.args)
        elif expr.op == "where":
            wanted[0] = truth
        xs = []
        for arg, kind in zip(expr.args, wanted, strict=True):
            name, own = known[id(arg)]
            xs.append(name if own == kind else self._node("Cast", name, to=self._type(kind)))
        made = _NODES.get(expr.op)
        if made is None:
            raise Unsupported(expr.op)
        name = self._node(made, *xs) if isinstance(made, str) else made(self, dtype, *xs)
        return name, truth if expr.op in TRUTHS else dtype

    def _number(self, value: Any, dtype: Any = None) -> str:
        array = np.array(value, dtype)
        return self._initializer((array.tobytes(), array.dtype), array)


def _squared(graph: _Graph, dtype: Any, x: str) -> str:
    return graph._node("Mul", x, x)


def _hypot(graph: _Graph, dtype: Any, x: str, y: str) -> str:
    squares = [graph._node("Mul", v, v) for v in (x, y)]
    return graph._node("Sqrt", graph._node("Add", *squares))


def _trunc(graph: _Graph, dtype: Any, x: str) -> str:
    size = graph._node("Floor", graph._node("Abs", x))
    return graph._node("Mul", graph._node("Sign", x), size)


def _isfinite(graph: _Graph, dtype: Any, x: str) -> str:
    either = graph._node("Or", graph._node("IsNaN", x), graph._node("IsInf", x))
    return graph._node("Not", either)


def _scaled_log(base: float) -> Any:
    def write(graph: _Graph, dtype: Any, x: str) -> str:
        return graph._node("Mul", graph._node("Log", x), graph._number(1 / np.log(base), dtype))

    return write


# What an opcode of `compiler.expr` is called there, or how it is put together.
_NODES: dict[str, Any] = {
    **{op: op.capitalize() for op in ("neg", "abs", "sqrt", "exp", "log", "tanh", "sigmoid")},
    **{op: op.capitalize() for op in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh")},
    **{op: op.capitalize() for op in ("cosh", "asinh", "acosh", "atanh", "floor", "ceil", "sign")},
    **{op: op.capitalize() for op in ("not", "and", "or", "xor", "where")},
    **{op: op.capitalize() for op in ("add", "sub", "mul", "div", "pow", "max", "min")},
    "recip": "Reciprocal",
    "rint": "Round",
    "isnan": "IsNaN",
    "isinf": "IsInf",
    "lt": "Less",
    "le": "LessOrEqual",
    "gt": "Greater",
    "ge": "GreaterOrEqual",
    "eq": "Equal",
    "square": _squared,
    "mulz": "Mul",
    "hypot": _hypot,
    "trunc": _trunc,
    "isfinite": _isfinite,
    "ne": lambda graph, dtype, x, y: graph._node("Not", graph._node("Equal", x, y)),
    "expm1": lambda g, dtype, x: g._node("Sub", g._node("Exp", x), g._number(1, dtype)),
    "log1p": lambda g, dtype, x: g._node("Log", g._node("Add", x, g._number(1, dtype))),
    "log2": _scaled_log(2),
    "log10": _scaled_log(10),
}


def _linear(graph: _Graph, eqn: Eqn) -> str:
    x, w, b = (graph.name[v] for v in eqn.inputs)
    if len(eqn.inputs[0].shape) == 2:
        return graph._node("Gemm", x, w, b, transB=1)
    product = graph._node("MatMul", x, graph._node("Transpose", w, perm=[1, 0]))
    return graph._node("Add", product, b)


def _reduction(kind: str) -> Any:
    def write(graph: _Graph, eqn: Eqn) -> str:
        x, axes, keep = graph.name[eqn.inputs[0]], eqn.params["axis"], eqn.params["keepdims"]
        if kind == "ReduceSum" or graph.opset >= 18:  # where axes became an input
            return graph._node(kind, x, graph._integers(*axes), keepdims=int(keep))
        return graph._node(kind, x, axes=list(axes), keepdims=int(keep))

    return write


def _along(kind: str) -> Any:
    return lambda graph, eqn: graph._node(kind, graph.name[eqn.inputs[0]], axis=eqn.params["axis"])


def _getitem(graph: _Graph, eqn: Eqn) -> str:
    x, *indices = eqn.inputs
    key, name = eqn.params["key"], graph.name[x]
    if indices:
        if len(key) > 1 or np.dtype(indices[0].dtype).kind == "b":
            raise Unsupported("an index other than one array of integers")
        index = graph._node("Cast", graph.name[indices[0]], to=graph._type(np.int64))
        return graph._node("Gather", name, index, axis=0)
    taken = sum(part is not None and part is not Ellipsis for part in key)
    at = key.index(Ellipsis) if Ellipsis in key else len(key)
    rest = (slice(None),) * (len(x.shape) - taken)
    axis = 0
    new: list[int] = []
    for part in (*key[:at], *rest, *key[at + 1 :]):
        if part is None:
            new.append(axis + len(new))
        elif isinstance(part, int):
            number = graph._initializer(("index", part), np.array(part, np.int64))
            name = graph._node("Gather", name, number, axis=axis)
        else:
            if part != slice(None):
                step = 1 if part.step is None else part.step
                ends = (0, 1 << 62) if step > 0 else (1 << 62, -(1 << 62))
                start = ends[0] if part.start is None else part.start
                stop = ends[1] if part.stop is None else part.stop
                given = [graph._integers(v) for v in (start, stop, axis, step)]
                name = graph._node("Slice", name, *given)
            axis += 1
    return graph._node("Unsqueeze", name, graph._integers(*new)) if new else name


_WRITERS: dict[str, Callable[[_Graph, Eqn], str]] = {
    "linear": _linear,
    "matmul": lambda g, eqn: g._node("MatMul", *[g.name[x] for x in eqn.inputs]),
    "reshape": lambda g, eqn: g._node(
        "Reshape", g.name[eqn.inputs[0]], g._shape(eqn.outputs[0]), allowzero=1
    ),
    "broadcast_to": lambda g, eqn: g._node(
        "Expand", g.name[eqn.inputs[0]], g._shape(eqn.outputs[0])
    ),
    "permute_dims": lambda g, eqn: g._node(
        "Transpose", g.name[eqn.inputs[0]], perm=list(eqn.params["axes"])
    ),
    "astype": lambda g, eqn: g._node(
        "Cast", g.name[eqn.inputs[0]], to=g._type(eqn.outputs[0].dtype)
    ),
    "concat": lambda g, eqn: g._node(
        "Concat", *[g.name[x] for x in eqn.inputs], axis=eqn.params["axis"]
    ),
    "within": lambda g, eqn: g.name[eqn.inputs[0]],
    "getitem": _getitem,
    "softmax": _along("Softmax"),
    "log_softmax": _along("LogSoftmax"),
    "sum": _reduction("ReduceSum"),
    "mean": _reduction("ReduceMean"),
    "prod": _reduction("ReduceProd"),
    "max": _reduction("ReduceMax"),
    "min": _reduction("ReduceMin"),
    "logsumexp": _reduction("ReduceLogSumExp"),
}
