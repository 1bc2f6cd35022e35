"""What the seed decides, and AdamW's numbers: the same as `crates/nn/src/gpt`, bit by bit.

ChaCha8 keyed with the seed; stream 0 for the parameters, stream 1 for the windows. Integers and float64 with
`+ - * / sqrt` alone, in the order of the Rust code, so that every bit is the same."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..recipe import words

BETAS = 0.9, 0.99
EPSILON = 1e-8
WEIGHT_DECAY = 0.1  # of matrices
CLIP, CLIP_EPSILON = 1.0, 1e-6
FLOOR = 0.1
LAYER_NORM_EPSILON = 1e-5

A = 3.3871327179, 50.434271938, 159.29113202, 59.10937472
B = 1.0, 17.895169469, 78.757757664, 67.1875636
C = 1.4234372777, 2.75681539, 1.3067284816, 0.17023821103
D = 1.0, 0.7370016425, 0.12021132975
PIECE = 1 << 18  # its float64 fit into a cache
ODD = tuple(1 / (2 * k + 1) for k in range(12))


def shapes(shape):
    """(name, shape) of each parameter in the order in which they are drawn: nanoGPT's names."""
    width = shape.width
    listed = [("transformer.wte.weight", (shape.vocabulary, width)), ("transformer.wpe.weight", (shape.context, width))]
    for layer in range(shape.layers):
        listed += [
            (f"transformer.h.{layer}.{name}.weight", sizes)
            for name, sizes in (
                ("ln_1", (width,)),
                ("attn.c_attn", (3 * width, width)),
                ("attn.c_proj", (width, width)),
                ("ln_2", (width,)),
                ("mlp.c_fc", (4 * width, width)),
                ("mlp.c_proj", (width, 4 * width)),
            )
        ]
    return listed + [("transformer.ln_f.weight", (width,))]


def initial_parameters(shape, seed):
    """Normal with deviation 0.02, residual projections smaller; LayerNorm's weights 1."""
    parameters, pieces, begin = {}, [], 0
    for name, sizes in shapes(shape):
        if len(sizes) == 1:
            parameters[name] = np.ones(sizes, np.float32)
            continue
        deviation = 0.02 / math.sqrt(2.0 * shape.layers) if name.endswith("c_proj.weight") else 0.02
        parameters[name] = np.empty(sizes, np.float32)
        values = parameters[name].reshape(-1)
        pieces += [(values[at : at + PIECE], deviation, begin + at) for at in range(0, len(values), PIECE)]
        begin += len(values)

    def draw(piece):
        values, deviation, first = piece
        values[:] = deviation * normal(words(seed, 0, len(values), first))

    with ThreadPoolExecutor() as pool:  # NumPy computes side by side; GPT-2's layers take ten seconds on one core
        list(pool.map(draw, pieces))
    return parameters


def normal(word):
    """The normal quantile at (word + 1/2) / 2^32: Wichura's algorithm AS 241, PPND7."""
    p = (word.astype(np.float64) + 0.5) / 4294967296.0
    q = p - 0.5
    r = 0.180625 - q * q
    middle = q * _polynomial(A, r) / _polynomial(B, r)
    r = np.sqrt(-_logarithm(np.where(q < 0, p, 1.0 - p))) - 1.6
    tail = _polynomial(C, r) / _polynomial(D, r)
    return np.where(np.abs(q) <= 0.425, middle, np.where(q < 0, -tail, tail))


def _logarithm(p):
    mantissa, exponent = np.frexp(p)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    return exponent * math.log(2.0) + 2.0 * s * _polynomial(ODD, s * s)


def _polynomial(coefficients, x):
    total = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + coefficient
    return total


def windows(seed, first_step, steps, batch, places):
    """Where windows start, (steps, batch), int64, each of `places` = len(text) - context places."""
    drawn = words(seed, 1, steps * batch, first_step * batch).astype(np.uint64)
    return ((drawn * np.uint64(places)) >> np.uint64(32)).astype(np.int64).reshape(steps, batch)


def rates(command, first_step, count):
    """The learning rates of steps, float64."""
    high, floor = command.learning_rate, FLOOR * command.learning_rate

    def rate(step):
        if step < command.warmup:
            return high * (step + 1) / (command.warmup + 1)
        if step >= command.steps:
            return floor
        part = (step - command.warmup) / (command.steps - command.warmup)
        return floor + 0.5 * (1.0 + math.cos(math.pi * part)) * (high - floor)

    return np.array([rate(step) for step in range(first_step, first_step + count)])


def flop_per_token(shape):
    """6 N + 12 L C T, N without the position embeddings."""
    counted = sum(math.prod(sizes) for _, sizes in shapes(shape)) - shape.context * shape.width
    return 6.0 * counted + 12 * shape.layers * shape.width * shape.context
