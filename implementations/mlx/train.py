"""MNISTMLX: MNIST in Apple's MLX, on an Apple or NVIDIA GPU where there is one, else on the CPU.

`--compile` compiles the whole step with mx.compile. MLX's wheel for Linux computes with Netlib's
reference BLAS, many times slower than OpenBLAS: where the system has OpenBLAS, this program starts
itself again with that loaded first, and says so in its `path`."""

import ctypes.util
import math
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
import trainer

command = trainer.read_command("MNISTMLX", {"mlx": "MLX's default device"}, compiles=True)
OPENBLAS = ctypes.util.find_library("openblas") if sys.platform == "linux" else None
if OPENBLAS and OPENBLAS not in os.environ.get("LD_PRELOAD", ""):
    os.environ["LD_PRELOAD"] = f"{OPENBLAS}:{os.environ.get('LD_PRELOAD', '')}".rstrip(":")
    os.execv(sys.executable, [sys.executable, *sys.argv])
with trainer.requirements(command):
    import numpy
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optimizers
    from mlx.utils import tree_flatten, tree_unflatten


class Mlp(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.fc1 = nn.Linear(784, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def __call__(self, pixels):  # (batch, 784)
        return self.fc2(nn.relu(self.fc1(pixels)))


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 14 * 14, 10)

    def __call__(self, pixels):
        maps = nn.relu(self.conv(pixels.reshape(-1, 28, 28, 1)))  # (batch, 28, 28, 8)
        # Of equal values the first is pooled and takes the gradient; nn.MaxPool2d shares it out.
        pooled = maps[:, ::2, ::2]
        for other in (maps[:, ::2, 1::2], maps[:, 1::2, ::2], maps[:, 1::2, 1::2]):
            pooled = mx.where(other > pooled, other, pooled)
        return self.fc(pooled.transpose(0, 3, 1, 2).reshape(-1, 8 * 14 * 14))


class Attention(nn.Module):
    def __init__(self, d_model, ff):
        super().__init__()
        self.patch = nn.Linear(16, d_model)
        self.position = mx.zeros((49, d_model))
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.ff1 = nn.Linear(d_model, ff)
        self.ff2 = nn.Linear(ff, d_model)
        self.out = nn.Linear(d_model, 10)

    def __call__(self, pixels):
        patches = pixels.reshape(-1, 7, 4, 7, 4).transpose(0, 1, 3, 2, 4).reshape(-1, 49, 16)
        tokens = nn.relu(self.patch(patches) + self.position)  # (batch, 49, d_model)
        query, key, value = self.query(tokens), self.key(tokens), self.value(tokens)
        scores = query @ key.transpose(0, 2, 1) / math.sqrt(query.shape[-1])
        mixed = mx.softmax(scores, axis=-1) @ value
        return self.out(self.ff2(nn.relu(self.ff1(mixed))).mean(axis=1))


MODELS = {"mlp": Mlp, "cnn": Cnn, "attention": Attention}


class Session(trainer.Session):
    version = mx.__version__

    def __init__(self, job):
        self.job = job
        on_cpu = mx.default_device().type == mx.cpu
        self.device = devices(job.backend)[0].name
        blas = ("OpenBLAS" if OPENBLAS else "Netlib BLAS") if sys.platform == "linux" else "Accelerate"
        self.path = ("mx.compile" if job.compile else "eager") + (f", {blas}" if on_cpu else "")
        # MLX's own CPU code runs on one thread; its BLAS may use more.
        self.threads = (job.threads if blas != "Netlib BLAS" else 1) if on_cpu else None
        self.images = mx.array(job.images).astype(mx.float32) / 255
        self.labels = mx.array(job.labels).astype(mx.int32)
        self.model = MODELS[job.model](**job.sizes)
        optimizer = optimizers.SGD(job.learning_rate)
        gradients_of = nn.value_and_grad(self.model, self.loss)
        self.state = [self.model.state, optimizer.state]
        mx.eval(self.images, self.labels, self.state)

        def step(indices):
            loss, gradients = gradients_of(self.images[indices], self.labels[indices])
            optimizer.update(self.model, gradients)
            return loss

        self.step = mx.compile(step, inputs=self.state, outputs=self.state) if job.compile else step

    def loss(self, pixels, targets):
        return nn.losses.cross_entropy(self.model(pixels), targets, reduction="mean")

    def train(self, order):
        order = mx.array(order.astype("uint32"))
        losses = []
        for begin in range(0, len(order), self.job.batch):
            losses.append(self.step(order[begin : begin + self.job.batch]))
            mx.async_eval(losses[-1], self.state)  # while Python builds the next step
        mx.eval(losses, self.state)
        return numpy.array(mx.stack(losses)) if losses else ()

    def predict(self, images):
        pixels = mx.array(images).astype(mx.float32) / 255
        return numpy.array(self.model(pixels).argmax(1))

    def set_parameters(self, parameters):
        self.model.update(tree_unflatten([
            # MLX's convolutions have the channels last.
            (name, mx.array(values.transpose(0, 2, 3, 1) if values.ndim == 4 else values))
            for name, values in parameters.items()
        ]))
        mx.eval(self.state)

    def parameters(self):
        named = dict(tree_flatten(self.model.parameters()))
        arrays = {name: numpy.array(values) for name, values in named.items()}
        return {
            name: values.transpose(0, 3, 1, 2) if values.ndim == 4 else values
            for name, values in arrays.items()
        }

    def measured(self):
        return {} if mx.default_device().type == mx.cpu else {"device_peak_bytes": mx.get_peak_memory()}


def devices(_):
    if mx.default_device().type == mx.cpu:
        return [trainer.cpu()]
    return [trainer.Device(mx.device_info().get("device_name", "GPU"))]


if __name__ == "__main__":
    trainer.main(command, devices, Session)
