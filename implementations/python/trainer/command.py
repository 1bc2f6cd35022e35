"""The command line, the same as `mnist-classic`'s, and the thread counts that libraries read from the
environment when they are loaded. Standard library only: this runs before numpy is imported."""

import argparse
import contextlib
import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

# Exit codes of the trainer contract (crates/protocol/src/exit.rs).
FAILURE, USAGE, DATA, UNAVAILABLE, NOT_FINITE, INTERRUPTED = 1, 2, 65, 69, 70, 130

MODELS = ("mlp", "cnn", "attention")
# Which sizes a model has, and their defaults.
SIZES = {"mlp": {"hidden": 512}, "cnn": {}, "attention": {"d_model": 32, "ff": 64}}
# Every library that may compute reads one of these when it is loaded. NPROC is XLA's.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NPROC",
)


class Failure(Exception):
    """Ends the program with one line on standard error and an exit code that says what kind it is."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class Unavailable(Exception):
    """This machine lacks what a backend needs. Not a failure."""


@dataclass(frozen=True)
class Command:
    """What was asked for, checked."""

    trainer: str
    backends: dict
    model: str
    sizes: dict
    backend: str
    compile: bool
    epochs: int
    batch: int
    learning_rate: float
    seed: int
    data: Path | None
    threads: int
    load: Path | None
    save: Path | None
    eval_each_epoch: bool
    probe: bool
    models: tuple = MODELS


def read_command(trainer, backends, compiles=False, always_compiles=False):
    """Reads `sys.argv` and sets the thread variables. `backends` maps ids to what they are; the first
    is the default. `compiles`: whether `--compile` means something; `always_compiles`: whether there is
    nothing else (the option is then accepted and says nothing new)."""
    options = _parser(trainer, backends, compiles or always_compiles).parse_args()
    sizes = dict(SIZES[options.model])
    for name in ("hidden", "d_model", "ff"):
        value = getattr(options, name)
        if value is not None and name not in sizes:
            usage(f"--{name.replace('_', '-')} is no size of the model {options.model}; leave it out")
        if value is not None:
            sizes[name] = value
    return Command(
        trainer=trainer,
        backends=backends,
        model=options.model,
        sizes=sizes,
        backend=options.backend or next(iter(backends)),
        compile=always_compiles or getattr(options, "compile", False),
        epochs=options.epochs,
        batch=options.batch,
        learning_rate=options.lr,
        seed=options.seed,
        data=options.data,
        threads=set_threads(options.threads),
        load=options.load,
        save=options.save,
        eval_each_epoch=options.eval_each_epoch,
        probe=options.probe,
    )


@dataclass(frozen=True)
class Rank:
    """Of several processes that train together, which one this is; as torchrun says it in the environment."""

    number: int = 0
    count: int = 1
    # Among those of this machine.
    local: int = 0
    locals: int = 1

    @staticmethod
    def of_environment():
        names = {"number": "RANK", "count": "WORLD_SIZE", "local": "LOCAL_RANK", "locals": "LOCAL_WORLD_SIZE"}
        return Rank(**{name: int(os.environ[variable]) for name, variable in names.items() if variable in os.environ})


def set_threads(wanted, rank=Rank()):
    """Sets the thread variables; returns the number of threads: those wanted, else one for each core, of which
    ranks on one machine have equal shares."""
    threads = wanted or max(len(_cores()) // rank.locals, 1)
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(threads)  # whatever the user's shell says: the record says this
    if (wanted is not None or rank.locals > 1) and hasattr(os, "sched_setaffinity"):
        # For libraries that count cores and take no number: as many cores as threads, other ones for each rank.
        cores = sorted(_cores())
        first = rank.local * threads % len(cores)
        os.sched_setaffinity(0, (cores[first:] + cores[:first])[:threads])
    return threads


@contextlib.contextmanager
def requirements(command):
    """Around the framework's import: what is missing is one line, or the answer to `--probe`."""
    try:
        yield
    except (ImportError, OSError) as error:
        reason = f"{' '.join(str(error).split())}; `trainmark setup` installs what it needs"
        if not command.probe:
            fail(Failure(UNAVAILABLE, f"{command.trainer}: {reason}"))
        backends = [
            {"backend": backend, "unavailable": reason, "models": list(command.models)}
            for backend in command.backends
        ]
        print(json.dumps({"trainer": command.trainer, "version": "", "backends": backends}, indent=2))
        sys.exit(0)


def fail(failure):
    """One line on standard error, and out."""
    print(f"error: {failure}", file=sys.stderr)
    sys.exit(failure.code)


def _cores():
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def usage(message):
    fail(Failure(USAGE, message))


class Parser(argparse.ArgumentParser):
    def error(self, message):
        usage(message)


def _parser(trainer, backends, compiles):
    parser = Parser(
        prog=trainer,
        description="Trains an MLP, a CNN or an attention model on MNIST with the recipe of "
        "mnist-classic: same options, same initial weights, same order of the samples.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong command line, 65 wrong data or weights, 69 the "
        "backend is not available on this machine, 70 the loss is not finite.",
        allow_abbrev=False,
    )
    model = parser.add_argument_group("model")
    model.add_argument("-m", "--model", choices=MODELS, default="mlp", help="[default: mlp]")
    model.add_argument("-n", "--hidden", type=count, metavar="H", help="of the mlp [default: 512]")
    model.add_argument("--d-model", type=count, metavar="D", help="of the attention [default: 32]")
    model.add_argument("--ff", type=count, metavar="F", help="of the attention [default: 64]")
    training = parser.add_argument_group("training")
    training.add_argument("-e", "--epochs", type=count, default=10, metavar="N", help="[default: 10]")
    training.add_argument("-b", "--batch", type=count, default=64, metavar="N", help="[default: 64]")
    training.add_argument("-l", "--lr", type=rate, default=0.01, metavar="RATE", help="[default: 0.01]")
    training.add_argument("-s", "--seed", type=seed_number, default=1, metavar="N", help="[default: 1]")
    training.add_argument(
        "-d", "--data", type=Path, metavar="DIR",
        help="folder of the four IDX files, plain or .gz [default: $TRAINMARK_DATA, ./data]",
    )
    where = parser.add_argument_group("backend").add_mutually_exclusive_group()
    where.add_argument("--backend", choices=list(backends), help="one of these, by its name")
    for backend, about in backends.items():
        where.add_argument(
            f"--{backend}", dest="backend", action="store_const", const=backend, help=about
        )
    how = parser.add_argument_group("how")
    how.add_argument("--threads", type=count, metavar="N", help="threads that compute [default: all]")
    if compiles:
        how.add_argument("--compile", action="store_true", help="compile the whole training step")
    more = parser.add_argument_group("what else")
    more.add_argument("--load", type=Path, metavar="FILE", help="begin with these weights (safetensors)")
    more.add_argument("--save", type=Path, metavar="FILE", help="write the trained weights")
    more.add_argument("--eval-each-epoch", action="store_true", help="test after each epoch, off the clock")
    more.add_argument("--probe", action="store_true", help="print as JSON what this machine can do")
    return parser


def count(text):
    value = int(text) if text.isdecimal() else 0
    if not 0 < value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 to 1000000")
    return value


def seed_number(text):
    if not text.isdecimal() or int(text) >= 1 << 64:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 0 to 2^64 - 1")
    return int(text)


def rate(text):
    with contextlib.suppress(ValueError):
        if 0 < float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is no number above 0")
