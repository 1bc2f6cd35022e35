"""MNIST in JAX: pure functions over a dictionary of arrays, everything on the device. With
`--compile` a whole epoch is one jitted `lax.scan`, which is how JAX is meant to be used; without it
every operation is dispatched by itself."""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
import trainer

BACKENDS = {"cpu": "the CPU", "cuda": "an NVIDIA GPU"}
command = trainer.read_command("JAX", BACKENDS, compiles=True)
with trainer.requirements(command):
    import jax
    from jax import lax, nn
    from jax import numpy as jnp

# On a GPU float32 and not tf32; nothing changes on a CPU.
jax.config.update("jax_default_matmul_precision", "highest")
if not command.probe:  # which asks for all
    jax.config.update("jax_platforms", command.backend)


def linear(p, name, inputs):
    return inputs @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def mlp(p, pixels):  # (batch, 784)
    return linear(p, "fc2", nn.relu(linear(p, "fc1", pixels)))


def cnn(p, pixels):
    images = jnp.pad(pixels.reshape(-1, 28, 28), ((0, 0), (1, 1), (1, 1)))
    # The nine shifted images, as one product: for one channel faster on a CPU than lax.conv.
    shifted = jnp.stack([images[:, r : r + 28, c : c + 28] for r in range(3) for c in range(3)], -1)
    maps = nn.relu(shifted @ p["conv.weight"].reshape(8, 9).T + p["conv.bias"])  # (batch, 28, 28, 8)
    # Of equal values the first is pooled and takes the gradient; JAX's own maximum shares it out.
    pooled = maps[:, ::2, ::2]
    for other in (maps[:, ::2, 1::2], maps[:, 1::2, ::2], maps[:, 1::2, 1::2]):
        pooled = jnp.where(other > pooled, other, pooled)
    return linear(p, "fc", pooled.transpose(0, 3, 1, 2).reshape(-1, 8 * 14 * 14))


def attention(p, pixels):
    patches = pixels.reshape(-1, 7, 4, 7, 4).transpose(0, 1, 3, 2, 4).reshape(-1, 49, 16)
    tokens = nn.relu(linear(p, "patch", patches) + p["position"])  # (batch, 49, d_model)
    query, key, value = (linear(p, name, tokens) for name in ("query", "key", "value"))
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
    mixed = nn.softmax(scores) @ value
    return linear(p, "out", linear(p, "ff2", nn.relu(linear(p, "ff1", mixed))).mean(1))


MODELS = {"mlp": mlp, "cnn": cnn, "attention": attention}


class Session(trainer.Session):
    version = jax.__version__

    def __init__(self, job):
        self.job, self.batch, self.compiles = job, job.batch, job.compile
        self.device = devices(job.backend)[0].name
        self.path = "jit, scan over the epoch" if job.compile else "eager"
        self.threads = job.threads if job.backend == "cpu" else None
        logits = MODELS[job.model]
        images = jnp.asarray(job.images, jnp.float32) / 255
        labels = jnp.asarray(job.labels, jnp.int32)

        def loss(p, pixels, targets):
            scores = nn.log_softmax(logits(p, pixels))
            return -jnp.take_along_axis(scores, targets[:, None], 1).mean()

        def step(p, indices):
            value, gradient = jax.value_and_grad(loss)(p, images[indices], labels[indices])
            return jax.tree.map(lambda w, g: w - job.learning_rate * g, p, gradient), value

        def epoch(p, batches):
            return lax.scan(step, p, batches)

        def predict(p, pixels):
            return logits(p, jnp.asarray(pixels, jnp.float32) / 255).argmax(1)

        self.step = jax.jit(step, donate_argnums=0) if job.compile else step
        self.epochs = {}  # compiled, by their number of steps
        self.epoch = jax.jit(epoch, donate_argnums=0)
        self._predict = jax.jit(predict) if job.compile else predict

    def warm_up(self, order):
        if not self.compiles:
            return super().warm_up(order)
        whole = len(order) // self.batch
        batches = jax.ShapeDtypeStruct((whole, self.batch), jnp.int32)
        self.epochs[whole] = self.epoch.lower(self.p, batches).compile()
        self.train(order[whole * self.batch :])  # the last, partial batch has a program of its own

    def train(self, order):
        order = jnp.asarray(order, jnp.int32)
        whole = len(order) // self.batch
        batches = order[: whole * self.batch].reshape(whole, self.batch)
        rest = order[whole * self.batch :]
        losses = []
        if self.compiles and whole:
            self.p, values = self.epochs.get(whole, self.epoch)(self.p, batches)
            losses.append(values)
        for indices in [*([] if self.compiles else batches), *([rest] if len(rest) else [])]:
            self.p, value = self.step(self.p, indices)
            losses.append(value[None])
        return jax.device_get(jnp.concatenate(losses)) if losses else ()

    def predict(self, images):
        return jax.device_get(self._predict(self.p, images))

    def set_parameters(self, parameters):
        self.p = jax.tree.map(jnp.array, parameters)

    def parameters(self):
        return jax.device_get(self.p)

    def measured(self):
        statistics = jax.devices()[0].memory_stats() or {}
        return {"device_peak_bytes": statistics.get("peak_bytes_in_use")}


def devices(backend):
    if backend == "cpu":
        return [trainer.cpu()]
    try:
        return [trainer.Device(device.device_kind) for device in jax.devices(backend)]
    except RuntimeError as error:
        raise trainer.Unavailable(str(error).splitlines()[0]) from error


if __name__ == "__main__":
    trainer.main(command, devices, Session)
