"""A GPT in PyTorch: `nn.Module`s with nanoGPT's names, `scaled_dot_product_attention`, fused AdamW.

Started by torchrun, ranks share each step's windows through DistributedDataParallel: NCCL between GPUs, gloo
between CPUs.

`--compile` compiles the forward and backward pass with torch.compile; on a GPU the whole step, clipping and
AdamW included, is then captured as one CUDA graph, since a small model's step is mostly launches. `bf16` is
autocast, with float32 weights, as nanoGPT does it."""

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


class Session(gpt.Session):
    version = torch.__version__

    def __init__(self, command, shape, text):
        torch.set_num_threads(command.threads)
        torch.backends.cuda.matmul.allow_tf32 = command.precision == "tf32"
        self.shape, self.precision, self.ranks = shape, command.precision, command.rank.count
        self.on = torch.device(command.backend)
        if command.backend == "cuda":
            self.on = torch.device("cuda", command.rank.local)
            torch.cuda.set_device(self.on)
        self.device = devices(command.backend)[0].name
        self.threads = command.threads if command.backend == "cpu" else None
        self.captured = command.compile and command.backend == "cuda" and self.ranks == 1
        self.path = "eager, SDPA"
        if command.compile:
            self.path = "torch.compile, SDPA, one CUDA graph a step" if self.captured else "torch.compile, SDPA"
        self.text = torch.from_numpy(text.astype(np.int64)).to(self.on)
        self.window = torch.arange(shape.context + 1, device=self.on)
        self.model = self.forward = Gpt(shape).to(self.on)
        self.graph, self.loss = None, self.eager_loss
        if self.ranks > 1:
            if command.backend == "cuda":
                distributed.init_process_group("nccl", device_id=self.on)
            else:
                distributed.init_process_group("gloo")
            compiled = torch.compile(self.model, dynamic=False) if command.compile else self.model
            self.forward = DistributedDataParallel(compiled)
            self.path += f", DDP of {self.ranks} ranks ({distributed.get_backend()})"
        elif command.compile:
            self.loss = torch.compile(self.eager_loss, dynamic=False)
        self.starts = torch.zeros(command.batch // self.ranks, dtype=torch.int64, device=self.on)
        self.value = torch.zeros((), device=self.on)

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

    def autocast(self):
        if self.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.on.type, torch.bfloat16)

    def eager_loss(self, starts):
        windows = self.text[starts[:, None] + self.window]
        with self.autocast():
            logits = self.forward(windows[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1).float(), windows[:, 1:].flatten())

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
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.train(starts[:3], rates[:3])
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.step()

    @torch.inference_mode()
    def predict(self, tokens):
        with self.autocast():
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
        if command.rank.local >= torch.cuda.device_count():
            raise trainer.Unavailable(f"rank {command.rank.number} finds no GPU of its own")
        return [trainer.Device(torch.cuda.get_device_name())]
    if not torch.backends.mps.is_available():
        raise trainer.Unavailable("PyTorch finds no Apple GPU")
    return [trainer.Device("Apple GPU")]


if __name__ == "__main__":
    gpt.main(command, devices, Session)
