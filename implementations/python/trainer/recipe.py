"""What the models are and what the seed decides: shapes, initial weights, the order of the samples.

The same as `crates/nn/src/model.rs` and `crates/nn/src/recipe.rs`, bit by bit: ChaCha8 keyed with the
seed, stream 0 for the weights, stream e + 1 for the order of epoch e (from 0)."""

import math

import numpy as np

PREDICT_BATCH = 1000  # a tenth of MNIST's test set: one compiled shape, and little memory


def shapes(model, sizes):
    """(name, shape) of each parameter in the order in which they are drawn; PyTorch's layout."""

    def linear(name, out, inputs):
        return [(f"{name}.weight", (out, inputs)), (f"{name}.bias", (out,))]

    if model == "mlp":
        return linear("fc1", sizes["hidden"], 784) + linear("fc2", 10, sizes["hidden"])
    if model == "cnn":
        return [("conv.weight", (8, 1, 3, 3)), ("conv.bias", (8,))] + linear("fc", 10, 8 * 14 * 14)
    d, ff = sizes["d_model"], sizes["ff"]
    return (
        linear("patch", d, 16)
        + [("position", (49, d))]
        + linear("query", d, d)
        + linear("key", d, d)
        + linear("value", d, d)
        + linear("ff1", ff, d)
        + linear("ff2", d, ff)
        + linear("out", 10, d)
    )


def initial_parameters(model, sizes, seed):
    """Glorot-uniform weights, zero biases."""
    shaped = shapes(model, sizes)
    drawn = [(name, shape) for name, shape in shaped if len(shape) > 1]
    drawn_words = words(seed, 0, sum(math.prod(shape) for _, shape in drawn))
    parameters = {name: np.zeros(shape, np.float32) for name, shape in shaped}
    begin = 0
    for name, shape in drawn:
        end = begin + math.prod(shape)
        fraction = (drawn_words[begin:end] >> 8).astype(np.float64) / (1 << 24)  # [0, 1)
        limit = math.sqrt(6 / sum(_fans(name, shape)))
        parameters[name] = ((2 * fraction - 1) * limit).astype(np.float32).reshape(shape)
        begin = end
    return parameters


def order(samples, seed, epoch):
    """The order of the samples in one epoch (from 0): Fisher and Yates, from the last element down.
    Returns (samples,), int64."""
    drawn = words(seed, epoch + 1, max(samples - 1, 0)).astype(np.uint64)
    choices = np.arange(samples, 1, -1, dtype=np.uint64)
    chosen = ((drawn * choices) >> np.uint64(32)).tolist()
    places = list(range(samples))
    for last, other in zip(range(samples - 1, 0, -1), chosen):
        places[last], places[other] = places[other], places[last]
    return np.array(places, np.int64)


def dense_flop(model, sizes, samples, steps):
    """As in `crates/nn/src/flop.rs`: the products of the forward and backward pass and the update."""
    if model == "mlp":
        multiply_adds = 2 * 784 * sizes["hidden"] + 3 * sizes["hidden"] * 10
    elif model == "cnn":
        multiply_adds = 72 * 784 + 72 * 784 // 4 + 3 * 1568 * 10
    else:
        d, ff = sizes["d_model"], sizes["ff"]
        token = 3 * d * d + 2 * 49 * d + 2 * d * ff
        multiply_adds = 2 * 49 * 16 * d + 3 * (49 * token + 10 * d)
    update = sum(math.prod(shape) for _, shape in shapes(model, sizes))
    return 2.0 * (samples * multiply_adds + steps * update)


def _fans(name, shape):
    """(in, out)"""
    if name == "conv.weight":
        return 9, 9 * shape[0]
    if name == "position":
        return shape
    return shape[1], shape[0]


def words(seed, stream, count, begin=0):
    """32-bit words of a ChaCha8 stream (Bernstein 2008), whose key is the seed's 64 bits: `count` of them
    from the word `begin` on."""
    first = begin // 16
    blocks = -(-(begin + count) // 16) - first
    counter = np.arange(first, first + blocks, dtype=np.uint64)
    state = np.empty((16, blocks), np.uint32)
    state[:4] = np.frombuffer(b"expand 32-byte k", "<u4")[:, None]
    state[4:12] = np.frombuffer(seed.to_bytes(32, "little"), "<u4")[:, None]
    state[12] = counter & np.uint64(0xFFFFFFFF)
    state[13] = counter >> np.uint64(32)
    state[14:] = np.frombuffer(stream.to_bytes(8, "little"), "<u4")[:, None]
    mixed = state.copy()

    def rotate(row, by):
        mixed[row] = (mixed[row] << np.uint32(by)) | (mixed[row] >> np.uint32(32 - by))

    def quarter(a, b, c, d):
        for x, y, z, by in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            mixed[x] += mixed[y]
            mixed[z] ^= mixed[x]
            rotate(z, by)

    for _ in range(4):  # a double round each
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            quarter(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return (mixed + state).T.reshape(-1)[begin - 16 * first :][:count]
