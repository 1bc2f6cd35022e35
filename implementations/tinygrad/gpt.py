"""A GPT in tinygrad. With `--compile` a step is captured by TinyJit, which is how tinygrad is meant to be used;
without it every step is scheduled anew. Windows are cut from the text by NumPy: a lookup among a million
tokens is a sum over all of them here. In bf16 the inputs and weights of products are bfloat16; all else is float32.

tinygrad's CPU device compiles its kernels with clang; the newest that is installed is taken."""

import math
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
import trainer
from trainer import gpt

DEVICES = {"cpu": "CPU", "cuda": "CUDA", "metal": "METAL"}
ABOUT = {"cpu": "the CPU", "cuda": "an NVIDIA GPU", "metal": "an Apple GPU"}
command = gpt.read_command("tinygrad", ABOUT, compiles=True, precisions=("float32", "bf16"))
CLANG = next((name for name in ["clang-21", "clang-20", "clang-19", "clang-18", "clang-17",
                                "clang-16", "clang"] if shutil.which(name)), None)
if CLANG:
    os.environ.setdefault("CC", CLANG)
os.environ["DEV"] = DEVICES[command.backend]
os.environ["NUM_CPU_THREADS"] = str(command.threads)
with trainer.requirements(command):
    from importlib import metadata

    import numpy
    from tinygrad import Context, Device, Tensor, TinyJit, dtypes, nn

    from trainer.gpt import recipe


COARSE = dtypes.bfloat16 if command.precision == "bf16" else dtypes.float32


class Linear(nn.Linear):
    def __init__(self, inputs, out):
        super().__init__(inputs, out, bias=False)

    def __call__(self, x):
        return x.linear(self.weight.cast(COARSE).transpose())


class LayerNorm:
    def __init__(self, width):
        self.weight = Tensor.ones(width)

    def __call__(self, x):
        return (x.layernorm(eps=recipe.LAYER_NORM_EPSILON) * self.weight).cast(COARSE).contiguous()


class Attention:
    def __init__(self, shape):
        self.heads = shape.heads
        self.c_attn = Linear(shape.width, 3 * shape.width)
        self.c_proj = Linear(shape.width, shape.width)

    def __call__(self, x):  # (batch, tokens, width)
        qkv = self.c_attn(x).unflatten(2, (3, self.heads, -1))
        query, key, value = (qkv[:, :, part].transpose(1, 2) for part in range(3))
        scores = (query @ key.transpose(2, 3)).float() / math.sqrt(query.shape[-1])
        seen = Tensor.ones(x.shape[1], x.shape[1], dtype=dtypes.bool).tril()
        # Kept: fused into the products, its exponentials are taken again for each of their elements.
        weights = seen.where(scores, -math.inf).softmax(-1).cast(COARSE).contiguous()
        return self.c_proj((weights @ value).transpose(1, 2).flatten(2))


class Mlp:
    def __init__(self, shape):
        self.c_fc = Linear(shape.width, 4 * shape.width)
        self.c_proj = Linear(4 * shape.width, shape.width)

    def __call__(self, x):
        return self.c_proj(self.c_fc(x).gelu().contiguous())  # the tanh form


class Block:
    def __init__(self, shape):
        self.ln_1, self.attn = LayerNorm(shape.width), Attention(shape)
        self.ln_2, self.mlp = LayerNorm(shape.width), Mlp(shape)

    def __call__(self, x):
        x = x + self.attn(self.ln_1(x))
        return (x + self.mlp(self.ln_2(x))).contiguous()


class Gpt:
    def __init__(self, shape):
        self.transformer = {
            "wte": nn.Embedding(shape.vocabulary, shape.width),
            "wpe": nn.Embedding(shape.context, shape.width),
            "h": [Block(shape) for _ in range(shape.layers)],
            "ln_f": LayerNorm(shape.width),
        }

    def __call__(self, tokens):  # (batch, tokens)
        parts = self.transformer
        x = parts["wte"](tokens) + parts["wpe"].weight
        for block in parts["h"]:
            x = block(x)
        return (parts["ln_f"](x) @ parts["wte"].weight.cast(COARSE).T).float()


class Session(gpt.Session):
    version = metadata.version("tinygrad")

    def __init__(self, command, shape, text):
        self.compiles = command.compile
        self.device = devices(command.backend)[0].name
        self.path = "TinyJit" if command.compile else "eager"
        self.path += f", {CLANG}" if command.backend == "cpu" else ""
        self.text = text.astype(numpy.int32)
        self.window = numpy.arange(shape.context + 1)
        self.model = Gpt(shape)
        self.weights = nn.state.get_state_dict(self.model)
        self.logits = TinyJit(self.infer) if command.compile else self.infer

    def new_optimizer(self):
        beta1, beta2 = recipe.BETAS

        def adamw(weights, decay):
            return nn.optim.AdamW(weights, 0.0, beta1, beta2, recipe.EPSILON, decay)

        matrices = [weight for weight in self.weights.values() if weight.ndim > 1]
        vectors = [weight for weight in self.weights.values() if weight.ndim == 1]
        self.optimizers = [adamw(matrices, recipe.WEIGHT_DECAY), adamw(vectors, 0.0)]
        self.optimizer = nn.optim.OptimizerGroup(*self.optimizers)
        self.step = TinyJit(self.one_step) if self.compiles else self.one_step

    def one_step(self, windows, rate):
        with Context(TRAINING=1):
            self.optimizer.zero_grad()
            loss = self.model(windows[:, :-1]).sparse_categorical_crossentropy(windows[:, 1:]).backward()
            gradients = [weight.grad.contiguous() for weight in self.weights.values()]
            # Kept: fused, the kernel of each weight would sum all gradients again.
            squares = [gradient.square().sum().contiguous() for gradient in gradients]
            norm = Tensor.stack(*squares).sum().sqrt()
            shortened = (recipe.CLIP / (norm + recipe.CLIP_EPSILON)).minimum(1.0).contiguous()
            for weight, gradient in zip(self.weights.values(), gradients):
                weight.grad = gradient * shortened
            rates = [group.lr.assign(rate) for group in self.optimizers]
            return loss.realize(*rates, *self.optimizer.schedule_step())

    def infer(self, tokens):
        return self.model(tokens).realize()

    def train(self, starts, rates):
        losses = []
        for row, rate in zip(starts, rates.astype(numpy.float32)):
            windows = Tensor(self.text[row[:, None] + self.window]).realize()
            losses.append(self.step(windows, Tensor(rate.reshape(1)).realize()).item())
        return numpy.array(losses, numpy.float32)

    def predict(self, tokens):
        return self.logits(Tensor(tokens.astype(numpy.int32)).realize()).numpy()

    def warm_up(self, starts, rates):
        self.train(starts[:3], rates[:3])  # TinyJit captures at the second call
        for _ in range(3):
            self.predict(numpy.zeros((starts.shape[1], len(self.window) - 1), numpy.int64))

    def set_parameters(self, parameters):
        for name, values in parameters.items():
            self.weights[name].assign(Tensor(values)).realize()
        if not hasattr(self, "optimizer"):
            self.new_optimizer()
        for group in self.optimizers:  # a capture knows their tensors: they are reset in place
            for tensor in (*group.m, *group.v):
                tensor.assign(Tensor.zeros_like(tensor)).realize()
            for power in (group.b1_t, group.b2_t):
                power.assign(Tensor.ones_like(power)).realize()

    def state(self):
        first, second = {}, {}
        names = {id(weight): name for name, weight in self.weights.items()}
        for group in self.optimizers:
            for weight, m, v in zip(group.params, group.m, group.v):
                first[names[id(weight)]], second[names[id(weight)]] = m.numpy(), v.numpy()
        return {name: weight.numpy() for name, weight in self.weights.items()}, first, second


def devices(backend):
    if backend == "cpu" and CLANG is None:
        raise trainer.Unavailable("tinygrad compiles with clang, which is not there: install clang")
    if backend == "cpu" and command.precision == "bf16":
        raise trainer.Unavailable("tinygrad trains in bf16 on GPUs alone here: clang before 17 has no such numbers")
    if backend == "cpu":
        return [trainer.cpu()]
    try:
        Device[DEVICES[backend]]
    except Exception as error:  # whatever the driver's loader raises
        raise trainer.Unavailable(f"tinygrad: {str(error).splitlines()[0]}") from error
    return [trainer.Device(DEVICES[backend])]


if __name__ == "__main__":
    gpt.main(command, devices, Session)
