"""The CUDA emulator itself: it refuses what CUDA would, and computes what CUDA does."""

from pathlib import Path

import numpy as np
import pytest

from cuda_on_cpu.launcher import Emulator, EmulatorError, why_unavailable

pytestmark = pytest.mark.skipif(why_unavailable() is not None, reason=f"{why_unavailable()}")


def run_text(loader: Emulator, body: str, parameters: str = "", *args, block=(32,), shared_mem=0):
    text = f'extern "C" __global__ void k({parameters}) {{\n{body}\n}}\nGG_EXPORT(k)\n'
    loader.kernel(text, "k")((2, 1, 1), block, args, shared_mem=shared_mem)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("if (threadIdx.x < 7) __syncthreads();", "7 of 32 threads come to the barrier"),
        ("if (threadIdx.x < 7)\n__syncthreads();\nelse\n__syncthreads();", "wait at two barriers"),
        ("if (threadIdx.x < 31) __shfl_xor_sync(~0u, 1.0f, 1);", "some lanes never come"),
        ("if (threadIdx.x == 5) __syncwarp(); else __syncthreads();", "some lanes never come"),
        ("__shfl_sync(1u, 1.0f, 0);", "lane outside its own mask"),
        ("if (threadIdx.x < 2) __shfl_sync(3u, 1.0f, 4);", "from a lane outside its mask"),
    ],
)
def test_emulator_refuses_divergence(emulator: Emulator, body: str, complaint: str) -> None:
    with pytest.raises(EmulatorError, match=complaint):
        run_text(emulator, body)
    run_text(emulator, "__syncthreads();")  # and works on after it


def test_emulator_refuses_what_cuda_would(built: Path) -> None:
    loader, array = Emulator(built), np.zeros(4, "f4")
    with pytest.raises(EmulatorError, match=r"CUDA refuses .* block \(1025, 1, 1\)"):
        run_text(loader, "", block=(1025,))
    with pytest.raises(EmulatorError, match="parameters of k in number or size"):
        run_text(loader, "x[0] = float(n);", "float* x, int n", array, np.int64(3))
    with pytest.raises(EmulatorError, match="parameters of k in number or size"):
        run_text(loader, "x[0] = float(n);", "float* x, int n", array)
    with pytest.raises(EmulatorError, match=r"g\+\+ refuses the kernel"):
        run_text(loader, "not C++")
    with pytest.raises(EmulatorError, match="exports no kernel 'other'"):
        loader.kernel('extern "C" __global__ void k() {}\nGG_EXPORT(k)\n', "other")
    with pytest.raises(ValueError, match="order is one of"):
        Emulator(built, order=3)


def test_shared_memory_starts_every_block_as_nan(emulator: Emulator) -> None:
    body = """
        __shared__ float fixed[32];
        GG_DYNAMIC_SHARED(float, dynamic);
        out[blockIdx.x * 32 + threadIdx.x] = fixed[threadIdx.x] + dynamic[threadIdx.x];
        fixed[threadIdx.x] = dynamic[threadIdx.x] = 1;
    """
    out = np.zeros(64, "f4")
    run_text(emulator, body, "float* out", out, shared_mem=128)
    assert np.isnan(out).all()


def test_shuffles_are_cudas(emulator: Emulator) -> None:
    body = """
        const int lane = threadIdx.x % 32;
        int* row = out + threadIdx.x * 5;
        row[0] = __shfl_sync(~0u, lane, 3);
        row[1] = __shfl_sync(~0u, lane, 3, 8);
        row[2] = __shfl_xor_sync(~0u, lane, 5);
        row[3] = __shfl_down_sync(~0u, lane, 2);
        row[4] = __shfl_down_sync(~0u, lane, 2, 8);
    """
    out = np.zeros((64, 5), "i4")
    run_text(emulator, body, "int* out", out, block=(64,))
    lane = np.arange(64) % 32
    want = [
        np.full(64, 3),
        lane // 8 * 8 + 3,
        lane ^ 5,
        np.where(lane < 30, lane + 2, lane),
        np.where(lane % 8 < 6, lane + 2, lane),
    ]
    np.testing.assert_array_equal(out, np.stack(want, 1))


def test_half_conversions_are_numpys(built: Path) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    halves = bits.view(np.float16)
    singles = np.zeros(bits.size, np.float32)
    body = "for (int i = 0; i < 65536; ++i) x[i] = half_bits_to_float(bits[i]);"
    run_text(Emulator(built), body, "const unsigned short* bits, float* x", bits, singles)
    np.testing.assert_array_equal(singles, halves.astype(np.float32))

    finite = np.sort(halves[np.isfinite(halves)]).astype(np.float32)
    halfway = (finite[:-1] + finite[1:]) / 2
    beside = [np.nextafter(halfway, np.float32(side)) for side in (-np.inf, np.inf)]
    extremes = np.array([65504, 65519.996, 65520, 1e30, -1e30, np.inf, -np.inf, np.nan, -0.0], "f4")
    numbers = np.concatenate([finite, halfway, *beside, extremes])
    out = np.zeros(numbers.size, np.uint16)
    body = "for (long long i = 0; i < n; ++i) bits[i] = float_to_half_bits(x[i]);"
    parameters = "const float* x, unsigned short* bits, long long n"
    run_text(Emulator(built), body, parameters, numbers, out, np.int64(numbers.size))
    with np.errstate(over="ignore"):
        want = numbers.astype(np.float16)
    np.testing.assert_array_equal(out.view(np.float16), want)
    np.testing.assert_array_equal(np.signbit(out.view(np.float16)), np.signbit(want))


def test_portable_fibers_give_the_same_bits(built: Path) -> None:
    body = """
        __shared__ float sums[32];
        sums[threadIdx.x] = x[threadIdx.x];
        __syncthreads();
        x[threadIdx.x] = __shfl_xor_sync(~0u, sums[31 - threadIdx.x], 1);
    """
    results = []
    for flags in ([], ["-DGG_UCONTEXT"]):
        x = np.arange(32, dtype="f4")
        run_text(Emulator(built, extra_flags=flags), body, "float* x", x)
        results.append(x.tolist())
    assert results[0] == results[1]
