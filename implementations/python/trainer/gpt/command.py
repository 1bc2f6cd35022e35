"""The command line of the model gpt, the same as `mnist-classic --model gpt`'s. Standard library only: this
runs before numpy is imported."""

from dataclasses import dataclass
from pathlib import Path

from ..command import UNAVAILABLE, Failure, Parser, Rank, count, fail, rate, seed_number, set_threads, usage

PRECISIONS = ("float32", "tf32", "bf16")


@dataclass(frozen=True)
class Shape:
    """The sizes of a model."""

    layers: int
    heads: int
    width: int
    context: int
    vocabulary: int | None  # None: the text's


@dataclass(frozen=True)
class Preset:
    shape: Shape
    batch: int
    learning_rate: float
    steps: int
    warmup: int


PRESETS = {
    "small": Preset(Shape(4, 4, 128, 64, None), 12, 1e-3, 2000, 100),
    "char": Preset(Shape(6, 6, 384, 256, None), 64, 1e-3, 1000, 100),
    "gpt2": Preset(Shape(12, 12, 768, 1024, 50_304), 16, 6e-4, 50, 10),
}


@dataclass(frozen=True)
class Command:
    """What was asked for, checked."""

    trainer: str
    backends: dict
    shape: Shape
    backend: str
    compile: bool
    precision: str
    batch: int
    learning_rate: float
    steps: int
    warmup: int
    report_every: int
    eval_every: int | None
    seed: int
    data: Path | None
    predictions: Path | None
    threads: int
    # Devices of this process, and which of several processes that train together it is.
    devices: int
    rank: Rank
    probe: bool
    models: tuple = ("gpt",)


def read_command(
    trainer, backends, compiles=False, always_compiles=False, precisions=("float32",), together=None
):
    """Reads `sys.argv` and sets the thread variables. `backends` maps ids to what they are; the first is
    the default. `precisions`: those that the trainer has, float32 among them. `together`: how several devices
    share the windows of a step, by `ranks` that somebody else starts or as `devices` of one process."""
    parser = _parser(trainer, backends, compiles or always_compiles, together == "devices")
    options = parser.parse_args()
    if options.precision == "tf32" and options.backend != "cuda":
        fail(Failure(UNAVAILABLE, "--precision tf32: only NVIDIA GPUs multiply in it, by --backend cuda"))
    if options.precision not in precisions:
        fail(Failure(UNAVAILABLE, f"--precision {options.precision}: {trainer} trains in {' and '.join(precisions)}"))
    rank = Rank.of_environment() if together == "ranks" else Rank()
    devices = getattr(options, "devices", 1)
    preset = PRESETS[options.preset]

    def chosen(name, default):
        value = getattr(options, name)
        return default if value is None else value

    shape = Shape(**{name: chosen(name, getattr(preset.shape, name)) for name in Shape.__annotations__})
    if shape.width % shape.heads:
        usage(f"--width {shape.width}: no multiple of {shape.heads} heads")
    steps = chosen("steps", preset.steps)
    batch = chosen("batch", preset.batch)
    if batch % (rank.count * devices):
        usage(f"--batch {batch}: {rank.count * devices} devices cannot have equal shares of it")
    data = options.data
    if data is None and options.preset == "gpt2":
        data = Path("tokens")
    return Command(
        trainer=trainer,
        backends=backends,
        shape=shape,
        backend=options.backend or next(iter(backends)),
        compile=always_compiles or getattr(options, "compile", False),
        precision=options.precision,
        batch=batch,
        learning_rate=chosen("lr", preset.learning_rate),
        steps=steps,
        warmup=chosen("warmup", preset.warmup),
        report_every=chosen("report_every", min(max(steps // 20, 1), 100)),
        eval_every=options.eval_every,
        seed=options.seed,
        data=data,
        predictions=options.predictions,
        threads=set_threads(options.threads, rank),
        devices=devices,
        rank=rank,
        probe=options.probe,
    )


def _parser(trainer, backends, compiles, several):
    parser = Parser(
        prog=trainer,
        description="Trains a GPT on the characters of a text with the recipe of mnist-classic: same "
        "options, same initial weights, same windows.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong command line, 65 wrong data or weights, 69 the "
        "backend is not available on this machine, 70 the loss is not finite.",
        allow_abbrev=False,
    )
    model = parser.add_argument_group("model")
    model.add_argument("-m", "--model", choices=["gpt"], default="gpt", help="there is one")
    model.add_argument("--preset", choices=PRESETS, default="small", help="sizes and recipe [default: small]")
    for name in Shape.__annotations__:
        model.add_argument(f"--{name}", type=count, metavar="N", help="[default: the preset's]")
    training = parser.add_argument_group("training")
    training.add_argument("--steps", type=count, metavar="N", help="[default: the preset's]")
    training.add_argument("-b", "--batch", type=count, metavar="N", help="windows in a step")
    training.add_argument("-l", "--lr", type=rate, metavar="RATE", help="the highest learning rate")
    training.add_argument("--warmup", type=_from_zero, metavar="N", help="steps of linear warm-up")
    training.add_argument("-s", "--seed", type=seed_number, default=1, metavar="N", help="[default: 1]")
    training.add_argument(
        "-d", "--data", type=Path, metavar="PATH",
        help="a text, or a folder that holds tinyshakespeare.txt or babble.txt, or the word `tokens` "
        "[default: $TRAINMARK_DATA, ./data]",
    )
    where = parser.add_argument_group("backend").add_mutually_exclusive_group()
    where.add_argument("--backend", choices=list(backends), help="one of these, by its name")
    for backend, about in backends.items():
        where.add_argument(f"--{backend}", dest="backend", action="store_const", const=backend, help=about)
    how = parser.add_argument_group("how")
    how.add_argument("--threads", type=count, metavar="N", help="threads that compute [default: all]")
    if several:
        how.add_argument("--devices", type=count, default=1, metavar="N", help="that share each step's windows")
    how.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the products")
    if compiles:
        how.add_argument("--compile", action="store_true", help="compile the training step")
    more = parser.add_argument_group("what else")
    more.add_argument("--report-every", type=count, metavar="N", help="steps between two points of the curve")
    more.add_argument("--eval-every", type=count, metavar="N", help="steps between two evaluations")
    more.add_argument("--predictions", type=Path, metavar="FILE", help="write the validation logits")
    more.add_argument("--probe", action="store_true", help="print as JSON what this machine can do")
    return parser


def _from_zero(text):
    return 0 if text == "0" else count(text)
