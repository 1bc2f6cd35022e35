"""The three models in JAX at its fastest: everything on the device, a whole epoch in one jitted
`lax.scan`, float32. Variants: `scan` and `scan-unrolled` (several steps per iteration)."""

import math
import time

import jax
import jax.numpy as jnp
from jax import lax

import recipe

jax.config.update("jax_default_matmul_precision", "highest")  # float32, not tf32


def linear(p, name, inputs):
    return inputs @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def logits(model, p, pixels):
    if model == "mlp":
        return linear(p, "fc2", jax.nn.relu(linear(p, "fc1", pixels)))
    if model == "cnn":
        maps = lax.conv_general_dilated(
            pixels.reshape(-1, 1, 28, 28), p["conv.weight"], (1, 1), "SAME",
            dimension_numbers=("NCHW", "OIHW", "NCHW"),
        )
        maps = jax.nn.relu(maps + p["conv.bias"][:, None, None])
        pooled = lax.reduce_window(maps, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        return linear(p, "fc", pooled.reshape(pooled.shape[0], -1))
    patches = pixels.reshape(-1, 7, 4, 7, 4).transpose(0, 1, 3, 2, 4).reshape(-1, 49, 16)
    embedded = jax.nn.relu(linear(p, "patch", patches) + p["position"])
    query, key, value = (linear(p, name, embedded) for name in ("query", "key", "value"))
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
    mixed = jax.nn.softmax(scores, -1) @ value
    narrow = linear(p, "ff2", jax.nn.relu(linear(p, "ff1", mixed)))
    return linear(p, "out", narrow.mean(1))


def main():
    args = recipe.arguments()
    images, labels, test_images, test_labels = map(jnp.asarray, recipe.mnist(args))
    initial = jax.tree.map(jnp.asarray, recipe.weights(args))
    epochs = recipe.order(args)
    epochs = jnp.asarray(epochs.reshape(len(epochs), -1, args.batch), dtype=jnp.int32)

    def loss(p, pixels, targets):
        out = jax.nn.log_softmax(logits(args.model, p, pixels))
        return -jnp.take_along_axis(out, targets[:, None], 1).mean()

    def step(p, indices):
        pixels = images[indices].astype(jnp.float32) / 255
        value, gradient = jax.value_and_grad(loss)(p, pixels, labels[indices].astype(jnp.int32))
        return jax.tree.map(lambda w, g: w - args.lr * g, p, gradient), value

    unroll = 5 if args.variant == "scan-unrolled" else 1
    epoch = jax.jit(lambda p, order: lax.scan(step, p, order, unroll=unroll), donate_argnums=0)
    predict = jax.jit(
        lambda p: logits(args.model, p, test_images.astype(jnp.float32) / 255).argmax(1)
    )

    orders = [order for order in epochs]
    for counts in recipe.repeats(args):
        p = jax.tree.map(jnp.copy, initial)
        jax.block_until_ready((p, orders))
        clock = time.perf_counter()
        for order in orders:
            p, losses = epoch(p, order)
        jax.block_until_ready((p, losses))
        train_s = time.perf_counter() - clock
        accuracy = 100 * (predict(p) == test_labels).mean()
        if counts:
            recipe.report(args, "jax", train_s, losses.mean(), accuracy)


main()
