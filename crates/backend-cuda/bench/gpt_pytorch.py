#!/usr/bin/env python3
"""The GPT as PyTorch's experts would train it, on what `examples/gpt export` wrote: bf16 autocast or
float32, SDPA, torch.compile, fused AdamW, CUDA graphs where they help. Prints losses, to be held against
ours, and milliseconds a step.

    python3 gpt_pytorch.py --folder EXPORTED --preset gpt2 --variant compiled --steps 20
"""

import argparse
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

PRESETS = {  # layers, heads, width, context, vocabulary, batch
    "small": (4, 4, 128, 64, 65, 12),
    "char": (6, 6, 384, 256, 65, 64),
    "gpt2": (12, 12, 768, 1024, 50304, 16),
}


class Block(nn.Module):
    def __init__(self, heads, width):
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(width, bias=False)
        self.c_attn = nn.Linear(width, 3 * width, bias=False)
        self.attn_proj = nn.Linear(width, width, bias=False)
        self.ln_2 = nn.LayerNorm(width, bias=False)
        self.c_fc = nn.Linear(width, 4 * width, bias=False)
        self.c_proj = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        batch, context, width = x.shape
        split = lambda y: y.view(batch, context, self.heads, width // self.heads).transpose(1, 2)
        q, k, v = self.c_attn(self.ln_1(x)).split(width, dim=2)
        y = F.scaled_dot_product_attention(split(q), split(k), split(v), is_causal=True)
        x = x + self.attn_proj(y.transpose(1, 2).reshape(batch, context, width))
        return x + self.c_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt(nn.Module):
    def __init__(self, layers, heads, width, context, vocabulary):
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(heads, width) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width, bias=False)

    def forward(self, inputs, targets):
        x = self.wte(inputs) + self.wpe(torch.arange(inputs.shape[1], device=inputs.device))
        for block in self.blocks:
            x = block(x)
        logits = F.linear(self.ln_f(x), self.wte.weight)
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1))


def canonical(model):
    yield model.wte.weight
    yield model.wpe.weight
    for b in model.blocks:
        yield from (b.ln_1.weight, b.c_attn.weight, b.attn_proj.weight)
        yield from (b.ln_2.weight, b.c_fc.weight, b.c_proj.weight)
    yield model.ln_f.weight


def rate(step, warmup, steps, most=1e-3):
    if step < warmup:
        return most * (step + 1) / (warmup + 1)
    part = min(1.0, (step - warmup) / (steps - warmup))
    return 0.1 * most + 0.5 * (1 + math.cos(math.pi * part)) * 0.9 * most


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--variant", default="compiled", choices=["eager", "compiled", "graph"])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    layers, heads, width, context, vocabulary, batch = PRESETS[args.preset]
    text = torch.from_numpy(np.fromfile(f"{args.folder}/text.u16", np.uint16).astype(np.int64)).cuda()
    starts = torch.from_numpy(np.fromfile(f"{args.folder}/starts.u32", np.uint32).astype(np.int64))
    starts = starts.view(-1, batch).cuda()
    parameters = torch.from_numpy(np.fromfile(f"{args.folder}/parameters.f32", np.float32))
    model = Gpt(layers, heads, width, context, vocabulary).cuda()
    offset = 0
    with torch.no_grad():
        for tensor in canonical(model):
            tensor.copy_(parameters[offset : offset + tensor.numel()].view(tensor.shape))
            offset += tensor.numel()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    step_rate = torch.tensor(0.0, device="cuda")
    adamw = torch.optim.AdamW(groups, lr=step_rate, betas=(0.9, 0.99), eps=1e-8, fused=True, capturable=True)
    places = torch.arange(context, device="cuda")
    half = torch.autocast("cuda", torch.bfloat16, enabled=args.precision == "bf16")
    loss_of = model if args.variant == "eager" else torch.compile(model)
    rows = torch.zeros(batch, dtype=torch.int64, device="cuda")
    loss_out = torch.zeros((), device="cuda")

    def step():
        at = rows[:, None] + places
        with half:
            loss = loss_of(text[at], text[at + 1])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        adamw.step()
        adamw.zero_grad(set_to_none=False)
        loss_out.copy_(loss.detach())

    saved = [p.detach().clone() for p in model.parameters()]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(4):
            step()
        torch.cuda.synchronize()
        replay = step
        if args.variant == "graph":
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                step()
            replay = graph.replay
        with torch.no_grad():
            for p, s in zip(model.parameters(), saved):
                p.copy_(s)
            for state in adamw.state.values():
                for value in state.values():
                    value.zero_()
        total = args.steps * args.repeats
        losses = torch.zeros(total, device="cuda")
        rates = torch.tensor([rate(s, total // 10, total) for s in range(total)], device="cuda")
        times = []
        for repeat in range(args.repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for index in range(repeat * args.steps, (repeat + 1) * args.steps):
                rows.copy_(starts[index])
                step_rate.copy_(rates[index])
                replay()
                losses[index].copy_(loss_out)
            end.record()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end) / args.steps)
    flop = 6 * (sum(p.numel() for p in model.parameters()) - context * width) + 12 * layers * width * context
    best = min(times)
    print(
        f"PyTorch {torch.__version__} {args.preset} {args.precision} {args.variant}: ms a step "
        f"{[round(t, 4) for t in times]}; {1e3 * batch * context / best:.0f} tokens/s, "
        f"{1e-9 * batch * context * flop / best:.1f} TFLOP/s, {torch.cuda.max_memory_allocated() / 1e9:.2f} GB"
    )
    print("  losses", [round(x, 5) for x in losses[:10].tolist()], "...", round(losses[-1].item(), 5))


if __name__ == "__main__":
    main()
