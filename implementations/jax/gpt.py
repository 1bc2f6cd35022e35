"""A GPT in JAX: pure functions over a dictionary of arrays. A stretch of steps is one jitted `lax.scan`, the
text, parameters and moments stay on the device and are donated, as JAX is meant to be used. Several devices
share each step's windows by sharding; all have the parameters."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
import trainer
from trainer import gpt

BACKENDS = {"cpu": "the CPU", "cuda": "an NVIDIA GPU"}
command = gpt.read_command(
    "JAX", BACKENDS, always_compiles=True, precisions=("float32", "tf32", "bf16"), together="devices"
)
with trainer.requirements(command):
    import jax
    import numpy as np
    from jax import lax, nn
    from jax import numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from trainer.gpt import recipe

# On a GPU float32 and not tf32; nothing changes on a CPU.
jax.config.update("jax_default_matmul_precision", {"tf32": "tensorfloat32"}.get(command.precision, "highest"))
if not command.probe:  # which asks for all
    jax.config.update("jax_platforms", command.backend)
if command.backend == "cpu" and command.devices > 1:
    jax.config.update("jax_num_cpu_devices", command.devices)
# What products are made of; parameters and moments stay float32.
COARSE = jnp.bfloat16 if command.precision == "bf16" else jnp.float32


def layer_norm(x, weight):
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.mean(centred * centred, -1, keepdims=True)
    return (centred * lax.rsqrt(variance + recipe.LAYER_NORM_EPSILON) * weight).astype(COARSE)


def linear(x, weight):
    return x @ weight.astype(COARSE).T


def attention(shape, qkv):
    batch, tokens, _ = qkv.shape
    query, key, value = jnp.split(qkv.reshape(batch, tokens, 3 * shape.heads, -1), 3, axis=2)
    if command.backend == "cuda" and COARSE == jnp.bfloat16:
        mixed = nn.dot_product_attention(query, key, value, is_causal=True, implementation="cudnn")
    else:
        mixed = nn.dot_product_attention(query, key, value, is_causal=True)
    return mixed.reshape(batch, tokens, -1)


def logits_of(shape, p, tokens):  # (batch, tokens) -> (batch, tokens, vocabulary)
    x = p["transformer.wte.weight"][tokens] + p["transformer.wpe.weight"]
    for layer in range(shape.layers):
        block = f"transformer.h.{layer}."
        qkv = linear(layer_norm(x, p[block + "ln_1.weight"]), p[block + "attn.c_attn.weight"])
        x = x + linear(attention(shape, qkv), p[block + "attn.c_proj.weight"])
        hidden = linear(layer_norm(x, p[block + "ln_2.weight"]), p[block + "mlp.c_fc.weight"])
        x = x + linear(nn.gelu(hidden, approximate=True), p[block + "mlp.c_proj.weight"])
    return linear(layer_norm(x, p["transformer.ln_f.weight"]), p["transformer.wte.weight"]).astype(jnp.float32)


def adamw(p, first, second, gradient, step, rate):
    """One step, `step` counted from 0; returns the new parameters and moments."""
    beta1, beta2 = recipe.BETAS
    norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient)))
    shortened = jnp.minimum(1.0, recipe.CLIP / (norm + recipe.CLIP_EPSILON))
    gradient = jax.tree.map(lambda g: g * shortened, gradient)
    first = jax.tree.map(lambda m, g: beta1 * m + (1 - beta1) * g, first, gradient)
    second = jax.tree.map(lambda v, g: beta2 * v + (1 - beta2) * g * g, second, gradient)
    done = (step + 1).astype(jnp.float32)
    correction1, correction2 = 1 - beta1**done, 1 - beta2**done

    def moved(w, m, v):
        keep = 1 - rate * recipe.WEIGHT_DECAY if w.ndim > 1 else 1.0
        return w * keep - rate / correction1 * m / (jnp.sqrt(v) / jnp.sqrt(correction2) + recipe.EPSILON)

    return jax.tree.map(moved, p, first, second), first, second


class Session(gpt.Session):
    version = jax.__version__
    path = "jit, scan over the steps"

    def __init__(self, command, shape, text):
        self.device = devices(command.backend)[0].name
        self.threads = command.threads if command.backend == "cpu" else None
        self.used = jax.devices()[: command.devices]
        if len(self.used) < command.devices:
            raise trainer.Unavailable(f"JAX finds {len(self.used)} devices of {command.devices}")
        if command.devices > 1:
            self.path += f", the windows on {command.devices} devices"
        mesh = Mesh(np.array(self.used), ("windows",))
        self.alike = NamedSharding(mesh, PartitionSpec())
        self.of_steps = NamedSharding(mesh, PartitionSpec(None, "windows"))
        self.of_one = NamedSharding(mesh, PartitionSpec("windows"))
        text = jnp.asarray(text, jnp.int32)
        window = jnp.arange(shape.context + 1)

        def loss(p, starts):
            windows = text[starts[:, None] + window]
            scores = logits_of(shape, p, windows[:, :-1])
            chosen = jnp.take_along_axis(scores, windows[:, 1:, None], -1)[..., 0]
            return jnp.mean(nn.logsumexp(scores, -1) - chosen)

        def step(carry, given):
            p, first, second, done = carry
            starts, rate = given
            value, gradient = jax.value_and_grad(loss)(p, starts)
            return (*adamw(p, first, second, gradient, done, rate), done + 1), value

        def stretch(carry, starts, rates):
            return lax.scan(step, carry, (starts, rates))

        self.stretch = jax.jit(stretch, donate_argnums=0, out_shardings=self.alike)
        self.stretches = {}  # compiled, by their number of steps
        self.logits = jax.jit(lambda p, tokens: logits_of(shape, p, tokens))

    def set_parameters(self, parameters):
        p = {name: jnp.array(values) for name, values in parameters.items()}
        zeros = [jax.tree.map(jnp.zeros_like, p) for _ in range(2)]
        self.carry = jax.device_put((p, *zeros, jnp.int32(0)), self.alike)

    def state(self):
        return jax.device_get(self.carry[:3])

    def placed(self, starts, rates):
        starts, rates = jnp.asarray(starts, jnp.int32), jnp.asarray(rates, jnp.float32)
        return jax.device_put(starts, self.of_steps), jax.device_put(rates, self.alike)

    def train(self, starts, rates):
        stretch = self.stretches.get(len(starts), self.stretch)
        self.carry, losses = stretch(self.carry, *self.placed(starts, rates))
        return jax.device_get(jax.block_until_ready((losses, self.carry))[0])

    def warm_up(self, starts, rates):
        lowered = self.stretch.lower(self.carry, *self.placed(starts, rates))
        self.stretches[len(starts)] = lowered.compile()

    def predict(self, tokens):
        tokens = jax.device_put(jnp.asarray(tokens, jnp.int32), self.of_one)
        return jax.device_get(self.logits(self.carry[0], tokens))

    def measured(self):
        peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in self.used]
        return {"device_peak_bytes": None if None in peaks else sum(peaks)}


def devices(backend):
    if backend == "cpu":
        return [trainer.cpu()]
    try:
        return [trainer.Device(device.device_kind) for device in jax.devices(backend)]
    except RuntimeError as error:
        raise trainer.Unavailable(str(error).splitlines()[0]) from error


if __name__ == "__main__":
    gpt.main(command, devices, Session)
