#!/usr/bin/env python3
"""The GPT as PyTorch's experts would train it, on what `examples/gpt export` wrote: bf16 autocast or
float32, SDPA, torch.compile, fused AdamW, CUDA graphs where they help. Prints losses, to be held against
ours, and milliseconds a step.

    python3 gpt_pytorch.py --folder EXPORTED --preset gpt2 --variant compiled --steps 20
"""

import torch
import torch.nn.functional as F
from torch import nn

import gpt_recipe


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


def main():
    args = gpt_recipe.arguments(["compiled", "graph", "eager"])
    layers, heads, width, context, vocabulary, batch = gpt_recipe.PRESETS[args.preset]
    text, starts, tensors = gpt_recipe.exported(args)
    text, starts = torch.from_numpy(text).cuda(), torch.from_numpy(starts).cuda()
    model = Gpt(layers, heads, width, context, vocabulary).cuda()
    with torch.no_grad():
        for tensor, values in zip(canonical(model), tensors, strict=True):
            tensor.copy_(torch.from_numpy(values))
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    step_rate = torch.tensor(0.0, device="cuda")
    adamw = torch.optim.AdamW(groups, lr=step_rate, betas=(0.9, 0.99), eps=1e-8, fused=True, capturable=True)
    places = torch.arange(context, device="cuda")
    half = torch.autocast("cuda", torch.bfloat16, enabled=args.precision == "bf16")
    loss_of = model if args.variant == "eager" else torch.compile(model)
    total = args.steps * args.repeats
    rates = torch.tensor([gpt_recipe.rate(s, total) for s in range(total)], device="cuda")
    losses = torch.zeros(total, device="cuda")
    number = torch.zeros(1, dtype=torch.int64, device="cuda")  # of the step: a graph reads it

    def step():
        at = starts.index_select(0, number).squeeze(0)[:, None] + places
        step_rate.copy_(rates.index_select(0, number).squeeze(0))
        with half:
            loss = loss_of(text[at], text[at + 1])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        adamw.step()
        adamw.zero_grad(set_to_none=False)
        losses.index_copy_(0, number, loss.detach().float()[None])
        number.add_(1)

    saved = [p.detach().cpu() for p in model.parameters()]  # on the host: they are no part of a training
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

        def forget():
            with torch.no_grad():
                for p, s in zip(model.parameters(), saved):
                    p.copy_(s)
                for state in adamw.state.values():
                    for value in state.values():
                        value.zero_()
                number.zero_()

        curve, done = [], 0
        for _ in gpt_recipe.turns(args):
            repeat = done % args.repeats
            if repeat == 0:
                forget()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            for _ in range(args.steps):
                replay()
            end.record()
            torch.cuda.synchronize()
            step_ms = begin.elapsed_time(end) / args.steps
            curve += losses[repeat * args.steps : (repeat + 1) * args.steps].tolist()
            done += 1
            memory = torch.cuda.max_memory_allocated()
            gpt_recipe.report(args, "pytorch", torch.__version__, step_ms, curve, memory)


if __name__ == "__main__":
    main()
