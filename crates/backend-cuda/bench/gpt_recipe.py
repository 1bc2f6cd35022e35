"""What PyTorch and JAX are given for the GPT: the text, the initial parameters and the order of windows
that `examples/gpt export` wrote, so that all train the same thing and have the same losses."""

import argparse
import json
import math
import sys

import numpy as np

PRESETS = {  # layers, heads, width, context, vocabulary, batch
    "small": (4, 4, 128, 64, 65, 12),
    "char": (6, 6, 384, 256, 65, 64),
    "gpt2": (12, 12, 768, 1024, 50304, 16),
}


def arguments(variants=("default",)):
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--preset", default="small", choices=list(PRESETS))
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--variant", default=variants[0], choices=variants)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help="a repeat for each line of input")
    return parser.parse_args()


def shapes(preset):
    """Shapes of the tensors in the canonical order."""
    layers, _, width, context, vocabulary, _ = PRESETS[preset]
    block = [(width,), (3 * width, width), (width, width), (width,), (4 * width, width), (width, 4 * width)]
    return [(vocabulary, width), (context, width), *block * layers, (width,)]


def exported(args):
    """Tokens, starts (steps, batch), and the parameter tensors."""
    batch = PRESETS[args.preset][5]
    text = np.fromfile(f"{args.folder}/text.u16", "<u2").astype(np.int64)
    starts = np.fromfile(f"{args.folder}/starts.u32", "<u4").astype(np.int64).reshape(-1, batch)
    flat = np.fromfile(f"{args.folder}/parameters.f32", "<f4")
    tensors, at = [], 0
    for shape in shapes(args.preset):
        tensors.append(flat[at : at + math.prod(shape)].reshape(shape))
        at += math.prod(shape)
    assert at == flat.size, (at, flat.size)
    return text, starts[: args.steps * args.repeats], tensors


def rate(step, steps, most=1e-3):
    warmup = steps // 10
    if step < warmup:
        return most * (step + 1) / (warmup + 1)
    part = min(1.0, (step - warmup) / (steps - warmup))
    return 0.1 * most + 0.5 * (1 + math.cos(math.pi * part)) * 0.9 * most


def turns(args):
    """One for each repeat; with `--serve` each waits for a line, so that gpt_compare.py can let several
    programs take turns."""
    if not args.serve:
        yield from range(args.repeats)
        return
    print(json.dumps({"ready": True}), flush=True)
    yield from sys.stdin


def report(args, framework, version, step_ms, curve, memory_bytes):
    print(json.dumps({
        "framework": framework, "version": version, "variant": args.variant, "preset": args.preset,
        "precision": args.precision, "step_ms": round(step_ms, 5), "memory_bytes": memory_bytes,
        "first_losses": [round(x, 5) for x in curve[:5]], "last_loss": round(curve[-1], 5),
    }), flush=True)
