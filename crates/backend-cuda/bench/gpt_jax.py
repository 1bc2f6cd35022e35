#!/usr/bin/env python3
"""The GPT as JAX's experts would train it, on what `examples/gpt export` wrote: all steps of a repeat in
one jitted scan, matrices in bf16 from float32 masters, cuDNN's attention.

    python3 gpt_jax.py --folder EXPORTED --preset char --steps 100
"""

import math
import time

import jax
import jax.numpy as jnp
from jax import lax

import gpt_recipe


def norm(x, weight):
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    return (x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight).astype(jnp.bfloat16)


def loss(p, inputs, targets, heads):
    half = lambda w: w.astype(jnp.bfloat16)
    batch, context = inputs.shape
    x = p["wte"][inputs] + p["wpe"]
    width = x.shape[-1]

    def block(x, layer):
        qkv = norm(x, layer["ln_1"]) @ half(layer["c_attn"]).T
        qkv = qkv.reshape(batch, context, 3, heads, width // heads)
        y = jax.nn.dot_product_attention(
            qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True, implementation="cudnn"
        )
        x = x + (y.reshape(batch, context, width) @ half(layer["attn_proj"]).T).astype(x.dtype)
        y = jax.nn.gelu(norm(x, layer["ln_2"]) @ half(layer["c_fc"]).T, approximate=True)
        return x + (y @ half(layer["c_proj"]).T).astype(x.dtype)

    for layer in p["blocks"]:
        x = block(x, layer)
    logits = (norm(x, p["ln_f"]) @ half(p["wte"]).T).astype(jnp.float32)
    of_target = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return (jax.nn.logsumexp(logits, -1) - of_target).mean()


def main():
    args = gpt_recipe.arguments()
    layers, heads, width, context, vocabulary, batch = gpt_recipe.PRESETS[args.preset]
    text, starts, tensors = gpt_recipe.exported(args)
    text = jnp.asarray(text, dtype=jnp.int32)
    starts = jnp.asarray(starts, dtype=jnp.int32).reshape(args.repeats, args.steps, batch)
    names = ["ln_1", "c_attn", "attn_proj", "ln_2", "c_fc", "c_proj"]
    blocks = [dict(zip(names, tensors[2 + 6 * i : 8 + 6 * i])) for i in range(layers)]
    initial = {"wte": tensors[0], "wpe": tensors[1], "blocks": blocks, "ln_f": tensors[-1]}
    total = args.steps * args.repeats
    rates = jnp.asarray([gpt_recipe.rate(s, total) for s in range(total)], dtype=jnp.float32)
    rates = rates.reshape(args.repeats, args.steps)

    def step(state, given):
        p, m, v, count = state
        rows, rate = given
        at = rows[:, None] + jnp.arange(context)
        value, g = jax.value_and_grad(loss)(p, text[at], text[at + 1], heads)
        length = jnp.sqrt(sum(jnp.vdot(x, x) for x in jax.tree.leaves(g)))
        clip = jnp.minimum(1.0, 1.0 / (length + 1e-6))
        count = count + 1
        first, second = 1 / (1 - 0.9**count), 1 / (1 - 0.99**count)

        def update(p, m, v, g):
            g = g * clip
            m = 0.9 * m + 0.1 * g
            v = 0.99 * v + 0.01 * g * g
            p = p * (1 - rate * 0.1) if p.ndim > 1 else p
            return p - rate * first * m / (jnp.sqrt(v * second) + 1e-8), m, v

        new = jax.tree.map(update, p, m, v, g)
        pick = lambda i: jax.tree.map(lambda t: t[i], new, is_leaf=lambda t: isinstance(t, tuple))
        return (pick(0), pick(1), pick(2), count), value

    run = jax.jit(lambda state, rows, rate: lax.scan(step, state, (rows, rate)), donate_argnums=0)
    fresh = lambda: (
        jax.tree.map(jnp.asarray, initial),  # which stays on the host: it is no part of a training
        jax.tree.map(jnp.zeros_like, initial),
        jax.tree.map(jnp.zeros_like, initial),
        jnp.zeros((), jnp.float32),
    )
    jax.block_until_ready(run(fresh(), starts[0], rates[0]))
    state, curve, done = fresh(), [], 0
    for _ in gpt_recipe.turns(args):
        jax.block_until_ready(state)
        index = done % args.repeats
        if index == 0:
            state = fresh()
            jax.block_until_ready(state)
        clock = time.perf_counter()
        state, losses = run(state, starts[index], rates[index])
        losses.block_until_ready()
        step_ms = 1e3 * (time.perf_counter() - clock) / args.steps
        curve += losses.tolist()
        done += 1
        stats = jax.devices()[0].memory_stats() or {}
        memory = stats.get("peak_bytes_in_use", math.nan)
        gpt_recipe.report(args, "jax", jax.__version__, step_ms, curve, memory)


main()
