"""A GPT in Apple's MLX: `nn.Module`s with nanoGPT's names, `mx.fast`'s attention and LayerNorm,
`optimizers.AdamW`. The backend `mlx` is an Apple GPU or the CPU, `cuda` an NVIDIA GPU.

`--compile` compiles the whole step with mx.compile. In bf16 the inputs and weights of products and of attention
are bfloat16; weights, moments, LayerNorm and the sum along the layers are float32. On Linux OpenBLAS is loaded
first for the CPU, as in `train.py`."""

import ctypes.util
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
import trainer
from trainer import gpt

BACKENDS = {"mlx": "an Apple GPU, else the CPU", "cuda": "an NVIDIA GPU"}
command = gpt.read_command("MLX", BACKENDS, compiles=True, precisions=("float32", "tf32", "bf16"))
os.environ["MLX_ENABLE_TF32"] = str(int(command.precision == "tf32"))  # its own default is 1
OPENBLAS = ctypes.util.find_library("openblas") if sys.platform == "linux" else None
if OPENBLAS and OPENBLAS not in os.environ.get("LD_PRELOAD", ""):
    os.environ["LD_PRELOAD"] = f"{OPENBLAS}:{os.environ.get('LD_PRELOAD', '')}".rstrip(":")
    os.execv(sys.executable, [sys.executable, *sys.argv])
with trainer.requirements(command):
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optimizers
    import numpy
    from mlx.utils import tree_flatten, tree_unflatten

    from trainer.gpt import recipe

COARSE = mx.bfloat16 if command.precision == "bf16" else mx.float32


class Linear(nn.Linear):
    def __init__(self, inputs, out):
        super().__init__(inputs, out, bias=False)

    def __call__(self, x):
        return x @ self.weight.astype(COARSE).T


class LayerNorm(nn.LayerNorm):
    def __init__(self, width):
        super().__init__(width, eps=recipe.LAYER_NORM_EPSILON, bias=False)

    def __call__(self, x):
        return super().__call__(x).astype(COARSE)


class Attention(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.heads, self.scale = shape.heads, (shape.width // shape.heads) ** -0.5
        self.c_attn = Linear(shape.width, 3 * shape.width)
        self.c_proj = Linear(shape.width, shape.width)

    def __call__(self, x):  # (batch, tokens, width)
        parts = mx.split(self.c_attn(x), 3, axis=-1)
        query, key, value = (mx.unflatten(part, -1, (self.heads, -1)).swapaxes(1, 2) for part in parts)
        mixed = mx.fast.scaled_dot_product_attention(query, key, value, scale=self.scale, mask="causal")
        return self.c_proj(mx.flatten(mixed.swapaxes(1, 2), 2))


class Mlp(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.c_fc = Linear(shape.width, 4 * shape.width)
        self.c_proj = Linear(4 * shape.width, shape.width)

    def __call__(self, x):
        return self.c_proj(nn.gelu_approx(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.ln_1, self.attn = LayerNorm(shape.width), Attention(shape)
        self.ln_2, self.mlp = LayerNorm(shape.width), Mlp(shape)

    def __call__(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    def __init__(self, shape):
        super().__init__()
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
        return (parts["ln_f"](x) @ parts["wte"].weight.astype(COARSE).T).astype(mx.float32)


def adamw(decay):
    beta1, beta2 = recipe.BETAS
    return optimizers.AdamW(
        0.0, betas=[beta1, beta2], eps=recipe.EPSILON, weight_decay=decay, bias_correction=True
    )


class Session(gpt.Session):
    version = mx.__version__

    def __init__(self, command, shape, text):
        self.compiles = command.compile
        on_cpu = mx.default_device().type == mx.cpu
        self.device = devices(command.backend)[0].name
        blas = ("OpenBLAS" if OPENBLAS else "Netlib BLAS") if sys.platform == "linux" else "Accelerate"
        self.path = ("mx.compile" if command.compile else "eager") + (f", {blas}" if on_cpu else "")
        # MLX's own CPU code runs on one thread; its BLAS may use more.
        self.threads = (command.threads if blas != "Netlib BLAS" else 1) if on_cpu else None
        self.text = mx.array(text.astype("int32"))
        self.window = mx.arange(shape.context + 1)
        self.model = Gpt(shape)

    def new_step(self):
        groups = [adamw(recipe.WEIGHT_DECAY), adamw(0.0)]
        self.optimizer = optimizers.MultiOptimizer(groups, [lambda _, weight: weight.ndim > 1])
        self.optimizer.init(self.model.trainable_parameters())
        gradients_of = nn.value_and_grad(self.model, self.loss)
        self.carried = [self.model.state, self.optimizer.state]
        mx.eval(self.carried)

        def step(starts, rate):
            windows = self.text[starts[:, None] + self.window]
            loss, gradients = gradients_of(windows[:, :-1], windows[:, 1:])
            gradients, _ = optimizers.clip_grad_norm(gradients, recipe.CLIP)
            for group in groups:
                group.learning_rate = rate
            self.optimizer.update(self.model, gradients)
            return loss

        self.step = step
        if self.compiles:
            self.step = mx.compile(step, inputs=self.carried, outputs=self.carried)

    def loss(self, tokens, targets):
        return nn.losses.cross_entropy(self.model(tokens), targets, reduction="mean")

    def train(self, starts, rates):
        starts, rates = mx.array(starts.astype("int32")), mx.array(rates.astype("float32"))
        losses = []
        for place in range(len(starts)):
            losses.append(self.step(starts[place], rates[place]))
            mx.async_eval(losses[-1], self.carried)  # while Python builds the next step
        mx.eval(losses, self.carried)
        return numpy.array(mx.stack(losses))

    def predict(self, tokens):
        return numpy.array(self.model(mx.array(tokens.astype("int32"))))

    def set_parameters(self, parameters):
        pairs = [(name, mx.array(values)) for name, values in parameters.items()]
        self.model.update(tree_unflatten(pairs))
        self.new_step()

    def state(self):
        parameters = {name: numpy.array(it) for name, it in tree_flatten(self.model.parameters())}
        first, second = {}, {}
        for group in self.optimizer.optimizers:
            for name, values in tree_flatten(group.state):
                for moments, end in ((first, ".m"), (second, ".v")):
                    if name.endswith(end):
                        moments[name.removesuffix(end)] = numpy.array(values)
        return parameters, first, second

    def measured(self):
        return {} if mx.default_device().type == mx.cpu else {"device_peak_bytes": mx.get_peak_memory()}


def devices(backend):
    if backend == "cuda" and not mx.cuda.is_available():
        raise trainer.Unavailable("this MLX finds no NVIDIA GPU: it needs the package mlx[cuda13] and a driver")
    if backend == "mlx" and mx.cuda.is_available():
        raise trainer.Unavailable("this MLX is the one for NVIDIA GPUs: --backend cuda")
    if mx.default_device().type == mx.cpu:
        return [trainer.cpu()]
    return [trainer.Device(str(mx.device_info().get("device_name", "GPU")))]


if __name__ == "__main__":
    gpt.main(command, devices, Session)
