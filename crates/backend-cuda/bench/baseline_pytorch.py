"""The three models in PyTorch at its fastest: everything on the device, many steps captured in one
CUDA graph, float32. Variants: `graph` (autograd's kernels) and `compiled` (torch.compile's)."""

import math
import time

import torch
import torch.nn.functional as F

import recipe

GRAPH_STEPS = 125  # 15 replays are an epoch; a graph of one step was never faster


def logits(model, p, pixels):
    if model == "mlp":
        hidden = F.relu(F.linear(pixels, p["fc1.weight"], p["fc1.bias"]))
        return F.linear(hidden, p["fc2.weight"], p["fc2.bias"])
    if model == "cnn":
        maps = F.conv2d(pixels.view(-1, 1, 28, 28), p["conv.weight"], p["conv.bias"], padding=1)
        pooled = F.max_pool2d(F.relu(maps), 2)
        return F.linear(pooled.flatten(1), p["fc.weight"], p["fc.bias"])
    patches = pixels.view(-1, 7, 4, 7, 4).transpose(2, 3).reshape(-1, 49, 16)
    embedded = F.relu(F.linear(patches, p["patch.weight"], p["patch.bias"]) + p["position"])
    query, key, value = (
        F.linear(embedded, p[f"{name}.weight"], p[f"{name}.bias"])
        for name in ("query", "key", "value")
    )
    scores = query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])
    mixed = torch.softmax(scores, -1) @ value
    wide = F.relu(F.linear(mixed, p["ff1.weight"], p["ff1.bias"]))
    narrow = F.linear(wide, p["ff2.weight"], p["ff2.bias"])
    return F.linear(narrow.mean(1), p["out.weight"], p["out.bias"])


def main():
    args = recipe.arguments()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda")
    images, labels, test_images, test_labels = (
        torch.from_numpy(array.copy()).to(device) for array in recipe.mnist(args)
    )
    initial = {name: torch.from_numpy(v).to(device) for name, v in recipe.weights(args).items()}
    epochs = torch.from_numpy(recipe.order(args)).to(device)
    p = {name: v.clone().requires_grad_() for name, v in initial.items()}
    names = list(p)
    order = torch.zeros_like(epochs[0])
    step_number = torch.zeros(1, dtype=torch.int64, device=device)
    within = torch.arange(args.batch, device=device)
    losses = torch.zeros(epochs.shape[1] // args.batch, device=device)

    def gradients(indices):
        pixels = images[indices].float() / 255
        loss = F.cross_entropy(logits(args.model, p, pixels), labels[indices].long())
        return loss, torch.autograd.grad(loss, [p[name] for name in names])

    def step():
        indices = order[step_number * args.batch + within]
        loss, grads = gradients(indices)
        with torch.no_grad():
            losses.index_copy_(0, step_number, loss.detach().view(1))
            torch._foreach_add_([p[name] for name in names], grads, alpha=-args.lr)
            step_number.add_(1)

    run = torch.compile(step) if args.variant == "compiled" else step
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(GRAPH_STEPS):
            run()

    def train():
        for epoch in epochs:
            order.copy_(epoch)
            step_number.zero_()
            for _ in range(epochs.shape[1] // args.batch // GRAPH_STEPS):
                graph.replay()

    with torch.no_grad():
        for counts in recipe.repeats(args):
            for name in names:
                p[name].copy_(initial[name])
            torch.cuda.synchronize()
            clock = time.perf_counter()
            train()
            torch.cuda.synchronize()
            train_s = time.perf_counter() - clock
            predicted = logits(args.model, p, test_images.float() / 255).argmax(1)
            accuracy = 100 * (predicted == test_labels).float().mean().item()
            if counts:
                recipe.report(args, "pytorch", train_s, losses.mean().item(), accuracy)


main()
