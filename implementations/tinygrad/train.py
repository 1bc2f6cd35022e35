"""MNIST in tinygrad. With `--compile` steps are captured by TinyJit, which is how tinygrad is meant to be
used, GROUP of them in one capture, so that a call from Python is paid once for all of them; without it
every step is scheduled anew.

tinygrad's CPU device compiles its kernels with clang; the newest that is installed is taken."""

import math
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
import trainer

DEVICES = {"cpu": "CPU", "cuda": "CUDA", "metal": "METAL"}
ABOUT = {"cpu": "the CPU", "cuda": "an NVIDIA GPU", "metal": "an Apple GPU"}
command = trainer.read_command("tinygrad", ABOUT, compiles=True)
CLANG = next((name for name in ["clang-21", "clang-20", "clang-19", "clang-18", "clang-17",
                                "clang-16", "clang"] if shutil.which(name)), None)
if CLANG:
    os.environ.setdefault("CC", CLANG)
os.environ["DEV"] = DEVICES[command.backend]
os.environ["NUM_CPU_THREADS"] = str(command.threads)
with trainer.requirements(command):
    import numpy
    from importlib import metadata
    from tinygrad import Context, Device, Tensor, TinyJit, dtypes, nn

GROUP = 15  # steps in one capture; 1875, which an epoch of MNIST in batches of 32 has, are 125 times as many


class Mlp:
    def __init__(self, hidden):
        self.fc1 = nn.Linear(784, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def __call__(self, pixels):  # (batch, 784)
        return self.fc2(self.fc1(pixels).relu())


class Cnn:
    def __init__(self):
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 14 * 14, 10)

    def __call__(self, pixels):
        maps = self.conv(pixels.reshape(-1, 1, 28, 28)).relu()
        # Of equal values the first is pooled and takes the gradient; max_pool2d shares it out.
        pooled = maps[:, :, ::2, ::2]
        for other in (maps[:, :, ::2, 1::2], maps[:, :, 1::2, ::2], maps[:, :, 1::2, 1::2]):
            pooled = (other > pooled).where(other, pooled)
        return self.fc(pooled.flatten(1))


class Attention:
    def __init__(self, d_model, ff):
        self.patch = nn.Linear(16, d_model)
        self.position = Tensor.zeros(49, d_model)
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.ff1 = nn.Linear(d_model, ff)
        self.ff2 = nn.Linear(ff, d_model)
        self.out = nn.Linear(d_model, 10)

    def __call__(self, pixels):
        patches = pixels.reshape(-1, 7, 4, 7, 4).transpose(2, 3).reshape(-1, 49, 16)
        tokens = (self.patch(patches) + self.position).relu()  # (batch, 49, d_model)
        query, key, value = self.query(tokens), self.key(tokens), self.value(tokens)
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        # Kept: fused into the products, its exponentials are taken again for each of their elements.
        mixed = scores.softmax(-1).contiguous() @ value
        return self.out(self.ff2(self.ff1(mixed).relu()).mean(1))


MODELS = {"mlp": Mlp, "cnn": Cnn, "attention": Attention}


class Session(trainer.Session):
    version = metadata.version("tinygrad")

    def __init__(self, job):
        self.job = job
        self.device = devices(job.backend)[0].name
        self.path = "TinyJit" if job.compile else "eager"
        self.path += f", {CLANG}" if job.backend == "cpu" else ""
        self.images = (Tensor(job.images).cast(dtypes.float32) / 255).realize()
        self.labels = Tensor(job.labels).cast(dtypes.int32).realize()
        self.model = MODELS[job.model](**job.sizes)
        self.weights = nn.state.get_state_dict(self.model)
        self.optimizer = nn.optim.SGD(list(self.weights.values()), lr=job.learning_rate)
        self.captures = {}  # by the shape of their indices, which a capture holds for
        self.logits = TinyJit(self.infer) if job.compile else self.infer

    def step(self, indices):
        # Picking images by their index is a sum over all of them, which becomes a plain load if it is not
        # split before.
        with Context(TRAINING=1, SPLIT_REDUCEOP=0):
            self.optimizer.zero_grad()
            logits = self.model(self.images[indices])
            loss = logits.sparse_categorical_crossentropy(self.labels[indices]).backward()
            return loss.realize(*self.optimizer.schedule_step())

    def steps(self, batches):  # (steps, batch)
        losses = [self.step(batches[index]) for index in range(batches.shape[0])]
        return Tensor.stack(*losses).realize()

    def infer(self, pixels):
        return self.model(pixels.cast(dtypes.float32) / 255).argmax(1).realize()

    def train(self, order):
        losses = [numpy.zeros(0, numpy.float32)]
        while len(order) > 0:
            # What is left of an epoch is taken one by one: each shape costs a capture.
            steps = GROUP if len(order) >= GROUP * self.job.batch else 1
            taken = min(steps * self.job.batch, len(order))
            batches, order = order[:taken].reshape(steps, -1), order[taken:]
            run = self.steps
            if self.job.compile:
                run = self.captures.setdefault(batches.shape, TinyJit(self.steps))
            losses.append(run(Tensor(batches.astype(numpy.int32)).realize()).numpy())
        return numpy.concatenate(losses)

    def predict(self, images):
        return self.logits(Tensor(images).realize()).numpy()

    def warm_up(self, order):
        for count in (GROUP, 1):
            for _ in range(3):  # TinyJit captures at the second call
                self.train(order[: count * self.job.batch])
        for _ in range(3):
            self.train(order[: len(order) % self.job.batch])

    def set_parameters(self, parameters):
        for name, values in parameters.items():
            self.weights[name].assign(Tensor(values)).realize()

    def parameters(self):
        return {name: values.numpy() for name, values in self.weights.items()}


def devices(backend):
    if backend == "cpu" and CLANG is None:
        raise trainer.Unavailable("tinygrad compiles with clang, which is not there: install clang")
    if backend == "cpu":
        return [trainer.cpu()]
    try:
        Device[DEVICES[backend]]
    except Exception as error:  # whatever the driver's loader raises
        raise trainer.Unavailable(f"tinygrad: {str(error).splitlines()[0]}") from error
    return [trainer.Device(DEVICES[backend])]


if __name__ == "__main__":
    trainer.main(command, devices, Session)
