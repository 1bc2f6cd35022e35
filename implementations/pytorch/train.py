"""MNIST in PyTorch: `nn.Module`s, `optim.SGD`, the whole training set as one tensor on the device.

`--compile` compiles the whole step, forward, backward and update as one graph, with torch.compile (on a
GPU as a CUDA graph). Tried on a CPU and left out: without checking the guards before each step
(`torch.compiler.set_stance(skip_guard_eval_unsafe=True)`) a step gains a few percent at most."""

import math
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
import trainer

BACKENDS = {"cpu": "the CPU", "cuda": "an NVIDIA GPU", "mps": "an Apple GPU"}
command = trainer.read_command("PyTorch", BACKENDS, compiles=True)
# One graph is compiled here: a pool of compilers costs more memory and time than it saves.
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
with trainer.requirements(command):
    import torch
    from torch import nn
    from torch.nn import functional as F


class Mlp(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.fc1 = nn.Linear(784, hidden)
        self.fc2 = nn.Linear(hidden, 10)

    def forward(self, pixels):  # (batch, 784)
        return self.fc2(F.relu(self.fc1(pixels)))


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 14 * 14, 10)

    def forward(self, pixels):
        maps = F.relu(self.conv(pixels.view(-1, 1, 28, 28)))
        return self.fc(F.max_pool2d(maps, 2).flatten(1))


class Attention(nn.Module):
    def __init__(self, d_model, ff):
        super().__init__()
        self.patch = nn.Linear(16, d_model)
        self.position = nn.Parameter(torch.empty(49, d_model))
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(d_model, d_model)
        self.value = nn.Linear(d_model, d_model)
        self.ff1 = nn.Linear(d_model, ff)
        self.ff2 = nn.Linear(ff, d_model)
        self.out = nn.Linear(d_model, 10)

    def forward(self, pixels):
        patches = pixels.view(-1, 7, 4, 7, 4).transpose(2, 3).reshape(-1, 49, 16)
        tokens = F.relu(self.patch(patches) + self.position)  # (batch, 49, d_model)
        query, key, value = self.query(tokens), self.key(tokens), self.value(tokens)
        scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
        mixed = scores.softmax(-1) @ value
        return self.out(self.ff2(F.relu(self.ff1(mixed))).mean(1))


MODELS = {"mlp": Mlp, "cnn": Cnn, "attention": Attention}


class Session(trainer.Session):
    version = torch.__version__

    def __init__(self, job):
        torch.set_num_threads(job.threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        self.job, self.on = job, torch.device(job.backend)
        self.device = devices(job.backend)[0].name
        self.path = "torch.compile, inductor" if job.compile else "eager"
        self.threads = job.threads if job.backend == "cpu" else None
        self.images = torch.from_numpy(job.images.copy()).to(self.on).float() / 255
        self.labels = torch.from_numpy(job.labels.copy()).to(self.on).long()
        self.model = MODELS[job.model](**job.sizes).to(self.on)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=job.learning_rate, fused=True)
        # The same storage as the module's, without autograd's book-keeping.
        self.weights = {name: values.detach() for name, values in self.model.named_parameters()}
        self.step = self.eager_step
        if job.compile:
            mode = "reduce-overhead" if job.backend == "cuda" else None
            self.step = torch.compile(self.functional_step, mode=mode, dynamic=False)

    def batch(self, indices):
        return self.images.index_select(0, indices), self.labels.index_select(0, indices)

    def eager_step(self, indices):
        pixels, targets = self.batch(indices)
        loss = F.cross_entropy(self.model(pixels), targets)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    @torch.no_grad()
    def functional_step(self, indices):
        """Forward, backward and update as one graph, which `backward()` and an optimizer are not."""

        def loss(weights, pixels, targets):
            return F.cross_entropy(torch.func.functional_call(self.model, weights, pixels), targets)

        gradients, value = torch.func.grad_and_value(loss)(self.weights, *self.batch(indices))
        for name, gradient in gradients.items():
            self.weights[name].add_(gradient, alpha=-self.job.learning_rate)
        return value

    def train(self, order):
        order = torch.from_numpy(order).to(self.on)
        batches = order.split(self.job.batch) if len(order) else ()
        # One tensor for all: thousands of small ones among the gradients, which are freed and made anew at each
        # step, would leave no hole in the heap that a gradient fits into, and it would grow by one a step.
        losses = torch.empty(len(batches), device=self.on)
        for place, indices in enumerate(batches):
            losses[place] = self.step(indices)
        return losses.cpu().numpy()  # waits for the device

    @torch.inference_mode()
    def predict(self, images):
        pixels = torch.from_numpy(images).to(self.on).float() / 255
        return self.model(pixels).argmax(1).cpu().numpy()

    def set_parameters(self, parameters):
        state = {name: torch.from_numpy(values) for name, values in parameters.items()}
        self.model.load_state_dict(state)  # copies into place

    def parameters(self):
        return {name: values.cpu().numpy() for name, values in self.model.state_dict().items()}

    def measured(self):
        if self.on.type != "cuda":
            return {}
        return {"device_peak_bytes": torch.cuda.max_memory_allocated()}


def devices(backend):
    if backend == "cpu":
        return [trainer.cpu()]
    if backend == "cuda":
        if not torch.cuda.is_available():
            raise trainer.Unavailable("PyTorch finds no NVIDIA GPU")
        return [trainer.Device(torch.cuda.get_device_name())]
    if not torch.backends.mps.is_available():
        raise trainer.Unavailable("PyTorch finds no Apple GPU")
    return [trainer.Device("Apple GPU")]


if __name__ == "__main__":
    trainer.main(command, devices, Session)
