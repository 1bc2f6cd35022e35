"""What PyTorch and JAX are given: the data, and the initial weights and batch order that
`epochs --export` wrote, so that all train the same thing and end with the same loss."""

import argparse
import gzip
import json
import math
import pathlib
import sys

import numpy as np

CONV_FILTERS, POOLED, PATCH, PATCHES = 8, 8 * 14 * 14, 16, 49


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=["mlp", "cnn", "attention"], required=True)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--d-model", type=int, default=32)
    parser.add_argument("--ff", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help="a repeat for each line of input")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--recipe", type=pathlib.Path, required=True, help="what --export wrote")
    return parser.parse_args()


def shapes(args):
    """(name, shape) of each parameter, in the order of the flat file; PyTorch's layout."""
    d, ff, hidden = args.d_model, args.ff, args.hidden
    linear = lambda name, out, inp: [(f"{name}.weight", (out, inp)), (f"{name}.bias", (out,))]
    if args.model == "mlp":
        return linear("fc1", hidden, 784) + linear("fc2", 10, hidden)
    if args.model == "cnn":
        conv = [("conv.weight", (CONV_FILTERS, 1, 3, 3)), ("conv.bias", (CONV_FILTERS,))]
        return conv + linear("fc", 10, POOLED)
    return (
        linear("patch", d, PATCH)
        + [("position", (PATCHES, d))]
        + linear("query", d, d)
        + linear("key", d, d)
        + linear("value", d, d)
        + linear("ff1", ff, d)
        + linear("ff2", d, ff)
        + linear("out", 10, d)
    )


def weights(args):
    flat = np.fromfile(args.recipe / f"{args.model}.f32", "<f4")
    result, at = {}, 0
    for name, shape in shapes(args):
        size = math.prod(shape)
        result[name] = flat[at : at + size].reshape(shape).copy()
        at += size
    assert at == flat.size, (at, flat.size)
    return result


def order(args):
    """(epochs, samples)"""
    flat = np.fromfile(args.recipe / "order.u32", "<u4").astype(np.int64)
    return flat.reshape(-1, 60000)


def read(path, header):
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.exists():
            raw = candidate.read_bytes()
            raw = gzip.decompress(raw) if candidate.suffix == ".gz" else raw
            return np.frombuffer(raw, np.uint8)[header:]
    raise FileNotFoundError(path)


def mnist(args):
    images = lambda split: read(args.data / f"{split}-images-idx3-ubyte", 16).reshape(-1, 784)
    labels = lambda split: read(args.data / f"{split}-labels-idx1-ubyte", 8)
    return images("train"), labels("train"), images("t10k"), labels("t10k")


def repeats(args):
    """Whether a repeat counts, for each: the first warms up and does not. With `--serve` one repeat
    waits for one line, so that compare.py can let several programs take turns."""
    yield False
    if args.serve:
        print(json.dumps({"ready": True}), flush=True)
        for _ in sys.stdin:
            yield True
    else:
        yield from [True] * args.repeats


def report(args, framework, train_s, loss, accuracy_percent):
    record = {
        "framework": framework,
        "variant": args.variant,
        "model": args.model,
        "train_s": round(train_s, 6),
        "loss": round(float(loss), 5),
        "accuracy_percent": round(float(accuracy_percent), 2),
    }
    print(json.dumps(record), flush=True)
