"""The ``gpugrad`` command. Each subcommand is one module with ``add`` (arguments) and ``run``.

May import everything below; rich, scikit-learn and safetensors only when a run needs them.
"""

import argparse
import contextlib
import difflib
import io
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

import gpugrad
from gpugrad.cli import bench, doctor, evaluate, export, graph, predict, train
from gpugrad.cli.options import UsageError
from gpugrad.errors import GpugradError, message


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, *args: Any, **named: Any) -> Any:
        """Of a command, too, what is unknown is refused here, where its options are known."""
        found, unknown = super().parse_known_args(*args, **named)
        if unknown:
            self._refuse(unknown)
        return found, unknown

    def _refuse(self, unknown: Sequence[str]) -> NoReturn:
        name = next((word.partition("=")[0] for word in unknown if word[0:1] == "-"), None)
        if name is None:
            self.error(f"no argument is expected here; got {' '.join(unknown)}")
        close = difflib.get_close_matches(name.replace("_", "-"), self._option_string_actions, 1)
        hint = ", or ".join([*close, f"{self.prog} --help"])
        rule = f"there is no option {name}"
        raise UsageError(message(self.prog.split()[-1], rule, hint=hint))

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"[{self.prog.split()[-1]}] {message}; try {self.prog} --help")


def arguments() -> argparse.ArgumentParser:
    """The whole command line; parsing raises `UsageError`."""
    parser = _Parser(
        prog="gpugrad",
        description=str(gpugrad.__doc__).splitlines()[0],
        epilog="example: gpugrad train --epochs 20",
    )
    parser.add_argument("--version", action="version", version=f"gpugrad {gpugrad.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (train, predict, evaluate, export, graph, bench, doctor):
        command.add(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv``, by default the process's arguments, and return its exit code.

    0 done; 1 the training diverged, a contender of the benchmark failed, or doctor found a problem;
    2 an argument, a file or a device is not usable; 130 and 143 interrupted, what was reached is
    saved; 141 nobody reads the output any more. A mistake prints one message on stderr;
    ``GPUGRAD_DEBUG=1`` adds the traceback.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # R² and file names, where only ASCII is shown
    try:
        args = arguments().parse_args(argv)
        return int(args.run(args))
    except SystemExit as done:  # --help and --version
        return int(done.code or 0)
    except GpugradError as error:
        if os.environ.get("GPUGRAD_DEBUG") == "1":
            traceback.print_exc()
        else:
            print(f"gpugrad: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("gpugrad: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more on its way out; let that go nowhere.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
