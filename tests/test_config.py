"""The flags: what they take, in a `with` block and from the environment."""

import os
import subprocess
import sys

import pytest

from gpugrad.config import flags, override


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"fusing": True}, TypeError, "no such flag: fusing; flags are"),
        ({"fuse": False, "matmul": "fp16"}, ValueError, r"matmul is one of .*'tf32'.*; got 'fp16'"),
        ({"fuse_products": "often"}, ValueError, "fuse_products is one of"),
    ],
)
def test_a_flag_that_cannot_be_set_changes_nothing(
    values: dict[str, object], error: type[Exception], words: str
) -> None:
    before = dict(vars(flags))
    with pytest.raises(error, match=words), override(**values):
        pass
    assert vars(flags) == before


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("GPUGRAD_MATMUL=tf32", "tf32"),
        ("GPUGRAD_MATMUL=bf16", "ValueError: [config] matmul is one of"),
        ("GPUGRAD_FUSE_PRODUCTS=2", "ValueError: [config] fuse_products is one of"),
    ],
)
def test_the_environment_is_read_at_import(variable: str, said: str) -> None:
    name, value = variable.split("=")
    result = subprocess.run(
        [sys.executable, "-c", "from gpugrad.config import flags; print(flags.matmul)"],
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
    )
    assert said in (result.stdout or result.stderr)
