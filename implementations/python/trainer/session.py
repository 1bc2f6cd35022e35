"""What a framework's own code is asked for."""

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Device:
    """What a backend computes on."""

    name: str
    detail: str | None = None
    software: bool = False


def cpu():
    """The CPU by its model's name."""
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return Device(line.split(":", 1)[1].strip())
    return Device(platform.processor() or platform.machine())


@dataclass(frozen=True)
class Job:
    """What is to be trained."""

    model: str
    sizes: dict  # hidden | d_model, ff
    backend: str
    compile: bool
    threads: int
    batch: int
    learning_rate: float
    images: Any  # (samples, 784), uint8
    labels: Any  # (samples,), uint8


class Session:
    """A model on a device, ready to be trained. Parameters are dictionaries of float32 numpy arrays,
    with PyTorch's names and shapes (`recipe.shapes`)."""

    device = "unknown"  # its name
    path = None  # which code computes, for example "eager, oneDNN"
    version = None  # the framework's
    precision = "float32"
    threads = None  # those that really compute; None: as many as the command says

    def __init__(self, job: Job):
        raise NotImplementedError

    def set_parameters(self, parameters):
        raise NotImplementedError

    def parameters(self):
        raise NotImplementedError

    def train(self, order):
        """One step of SGD for each `batch` samples of `order` (int64; the last step takes what is
        left). Returns the mean loss of each step, float32, with the device synchronised."""
        raise NotImplementedError

    def predict(self, images):
        """The most likely label of each image. `images`: (recipe.PREDICT_BATCH, 784), uint8."""
        raise NotImplementedError

    def warm_up(self, order):
        """Whatever comes before the clock starts, so that everything is compiled, allocated and awake.
        `order` is an epoch's; the parameters are set anew afterwards."""
        self.train(order[: 20 * self.job.batch])
        self.train(order[: len(order) % self.job.batch])  # the last, partial batch

    def measured(self):
        """What the framework knows of the run: `device_s`, `device_peak_bytes`."""
        return {}
