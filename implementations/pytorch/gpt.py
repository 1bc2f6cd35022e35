"""A GPT in PyTorch: `nn.Module`s with nanoGPT's names, `scaled_dot_product_attention`, fused AdamW.

Started by torchrun, ranks share each step's windows through DistributedDataParallel: NCCL between GPUs, gloo
between CPUs.

`--compile` compiles the forward and backward pass with torch.compile; on a GPU the whole step, clipping and
AdamW included, is then captured as one CUDA graph, since a small model's step is mostly launches. Several ranks'
exchange of gradients is captured with it: PyTorch's note "CUDA semantics" (Usage with DistributedDataParallel) asks
for a side stream, eleven steps before the capture, and no asynchronous handling of NCCL's errors. `bf16` is autocast,
with float32 weights, as nanoGPT does it."""

import contextlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
import trainer
from trainer import gpt

BACKENDS = {"cpu": "the CPU", "cuda": "an NVIDIA GPU", "mps": "an Apple GPU"}
command = gpt.read_command(
    "PyTorch", BACKENDS, compiles=True, precisions=("float32", "tf32", "bf16"), together="ranks"
)
# One graph is compiled here: a pool of compilers costs more memory and time than it saves.
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
with trainer.requirements(command):
    import numpy as np
    import torch
    from torch import distributed, nn
    from torch.nn import functional as F
    from torch.nn.parallel import DistributedDataParallel

    from trainer.gpt import recipe


def linear(inputs, out):
    return nn.Linear(inputs, out, bias=False)


def layer_norm(width):
    return nn.LayerNorm(width, eps=recipe.LAYER_NORM_EPSILON, bias=False)


class Attention(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.heads = shape.heads
        self.c_attn = linear(shape.width, 3 * shape.width)
        self.c_proj = linear(shape.width, shape.width)

    def forward(self, x):  # (batch, tokens, width)
        qkv = self.c_attn(x).unflatten(2, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (batch, heads, tokens, width / heads) each
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.c_fc = linear(shape.width, 4 * shape.width)
        self.c_proj = linear(4 * shape.width, shape.width)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.ln_1, self.attn = layer_norm(shape.width), Attention(shape)
        self.ln_2, self.mlp = layer_norm(shape.width), Mlp(shape)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Gpt(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(shape.vocabulary, shape.width),
            "wpe": nn.Embedding(shape.context, shape.width),
            "h": nn.ModuleList(Block(shape) for _ in range(shape.layers)),
            "ln_f": layer_norm(shape.width),
        })

    def forward(self, tokens):  # (batch, tokens)
        parts = self.transformer
        x = parts.wte(tokens) + parts.wpe.weight
        for block in parts.h:
            x = block(x)
        return F.linear(parts.ln_f(x), parts.wte.weight)


class Loss(nn.Module):
    """Of windows that start at `starts` in the text; a module, since DistributedDataParallel wraps those."""

    def __init__(self, model, text, context, precision):
        super().__init__()
        self.model, self.text, self.precision = model, text, precision
        self.window = torch.arange(context + 1, device=text.device)

    def forward(self, starts):
        windows = self.text[starts[:, None] + self.window]
        with autocast(self.text.device, self.precision):
            logits = self.model(windows[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())


def autocast(device, precision):
    if precision != "bf16":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


class Session(gpt.Session):
    version = torch.__version__

    def __init__(self, command, shape, text):
        torch.set_num_threads(command.threads)
        torch.backends.cuda.matmul.allow_tf32 = command.precision == "tf32"
        self.precision, self.ranks = command.precision, command.rank.count
        self.on = torch.device(command.backend)
        if command.backend == "cuda":
            self.on = torch.device("cuda", command.rank.local)
            torch.cuda.set_device(self.on)
        self.device = devices(command.backend)[0].name
        self.threads = command.threads if command.backend == "cpu" else None
        self.captured = command.compile and command.backend == "cuda"
        self.path = "torch.compile, SDPA" if command.compile else "eager, SDPA"
        if self.captured:
            self.path += ", one CUDA graph a step"
        self.graph, self.stream = None, torch.cuda.Stream() if self.captured else None
        self.model = Gpt(shape).to(self.on)
        text = torch.from_numpy(text.astype(np.int64)).to(self.on)
        self.loss = Loss(self.model, text, shape.context, self.precision)
        if command.compile:
            self.loss = torch.compile(self.loss, dynamic=False)
        if self.ranks > 1:
            self.join()
        self.starts = torch.zeros(command.batch // self.ranks, dtype=torch.int64, device=self.on)
        self.value = torch.zeros((), device=self.on)

    def join(self):
        """The other ranks."""
        if self.on.type == "cuda":
            os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "0"  # else it could look at a step that is being captured
            distributed.init_process_group("nccl", device_id=self.on)
        else:
            distributed.init_process_group("gloo")
        with aside(self.stream):
            self.loss = DistributedDataParallel(self.loss)
        self.path += f", DDP of {self.ranks} ranks ({distributed.get_backend()})"

    def new_optimizer(self):
        matrices = [p for p in self.model.parameters() if p.dim() >= 2]
        vectors = [p for p in self.model.parameters() if p.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": recipe.WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0},
        ]
        # On a GPU the rate is a tensor, so that a captured step reads it.
        rate = torch.zeros((), device=self.on) if self.captured else 0.0
        return torch.optim.AdamW(
            groups, lr=rate, betas=recipe.BETAS, eps=recipe.EPSILON, fused=True, capturable=self.captured
        )

    def step(self):
        """Of the windows at `self.starts`; leaves the loss in `self.value`."""
        loss = self.loss(self.starts)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), recipe.CLIP, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()  # to None: the next backward pass writes gradients and adds to none
        self.value.copy_(loss.detach())

    def set_rate(self, rate):
        for group in self.optimizer.param_groups:
            if self.captured:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def train(self, starts, rates):
        starts = torch.from_numpy(starts).to(self.on)
        losses = torch.empty(len(starts), device=self.on)
        for place, rate in enumerate(rates.tolist()):
            self.starts.copy_(starts[place])
            self.set_rate(rate)
            if self.graph:
                self.graph.replay()
            else:
                self.step()
            losses[place] = self.value
        if self.ranks > 1:  # equal shares: the mean of all windows is the mean of the ranks'
            distributed.all_reduce(losses)
            losses /= self.ranks
        return losses.cpu().numpy()  # waits for the device

    def warm_up(self, starts, rates):
        if not self.captured:
            return super().warm_up(starts, rates)
        # Of several ranks, DistributedDataParallel arranges its buckets anew in the first steps.
        steps = np.arange(11 if self.ranks > 1 else 3) % len(starts)
        with aside(self.stream):
            self.train(starts[steps], rates[steps])
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.step()

    @torch.inference_mode()
    def predict(self, tokens):
        with autocast(self.on, self.precision):
            return self.model(torch.from_numpy(tokens).to(self.on)).float().cpu().numpy()

    def set_parameters(self, parameters):
        state = {name: torch.from_numpy(values) for name, values in parameters.items()}
        self.model.load_state_dict(state)  # copies into place
        if self.graph:  # which knows the optimizer's tensors
            for moments in self.optimizer.state.values():
                for tensor in moments.values():
                    tensor.zero_()
        else:
            self.optimizer = self.new_optimizer()

    def state(self):
        def numpy(of):
            return {name: of(p).detach().cpu().numpy() for name, p in self.model.named_parameters()}

        moments = self.optimizer.state
        return numpy(lambda p: p), numpy(lambda p: moments[p]["exp_avg"]), numpy(lambda p: moments[p]["exp_avg_sq"])

    def meet(self):
        if self.ranks > 1:
            distributed.barrier()

    def close(self):
        if self.ranks > 1:
            self.graph = None  # which holds NCCL's communicator
            distributed.destroy_process_group()

    def measured(self):
        if self.on.type != "cuda":
            return {}
        return {"device_peak_bytes": torch.cuda.max_memory_allocated()}


@contextlib.contextmanager
def aside(stream):
    """In this stream, after and before all that the current one does."""
    if stream is None:
        yield
        return
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


def devices(backend):
    if backend == "cpu":
        return [trainer.cpu()]
    if backend == "cuda":
        if not torch.cuda.is_available():
            raise trainer.Unavailable("PyTorch finds no NVIDIA GPU")
        if command.rank.local >= torch.cuda.device_count():
            raise trainer.Unavailable(f"rank {command.rank.number} finds no GPU of its own")
        return [trainer.Device(torch.cuda.get_device_name())]
    if not torch.backends.mps.is_available():
        raise trainer.Unavailable("PyTorch finds no Apple GPU")
    return [trainer.Device("Apple GPU")]


if __name__ == "__main__":
    gpt.main(command, devices, Session)
