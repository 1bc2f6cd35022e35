"""A GPT in NumPy: forward and backward pass by hand, AdamW over one flat buffer. The plain one: what the
mathematics costs without a framework. All products are BLAS's; everything else is one pass of NumPy each."""

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
import trainer
from trainer import gpt

BACKENDS = {"cpu": "the CPU"}
command = gpt.read_command("NumPy", BACKENDS)
with trainer.requirements(command):
    import numpy as np

    from trainer.gpt import recipe

GELU = math.sqrt(2 / math.pi)


def rows(x):
    return x.reshape(-1, x.shape[-1])


def layer_norm(x, weight):
    """Returns the output, the normal values and 1 / deviation."""
    normal = x - x.mean(-1, keepdims=True)
    scale = 1 / np.sqrt(np.mean(normal * normal, -1, keepdims=True) + np.float32(recipe.LAYER_NORM_EPSILON))
    normal *= scale
    return normal * weight, normal, scale


def layer_norm_backward(d, weight, normal, scale):
    """Returns the gradients of input and weight."""
    d_weight = np.einsum("btd,btd->d", d, normal)
    d = d * weight
    d -= d.mean(-1, keepdims=True) + normal * np.mean(d * normal, -1, keepdims=True)
    d *= scale
    return d, d_weight


def gelu(x):
    """Returns the output and the tanh."""
    tanh = np.tanh(np.float32(GELU) * (x + np.float32(0.044715) * x * x * x))
    return np.float32(0.5) * x * (1 + tanh), tanh


def gelu_slope(x, tanh):
    inner = np.float32(GELU) * (1 + np.float32(3 * 0.044715) * x * x)
    return np.float32(0.5) * ((1 + tanh) + x * (1 - tanh * tanh) * inner)


class Session(gpt.Session):
    version = np.__version__
    path = "NumPy, BLAS"

    def __init__(self, command, shape, text):
        self.device = devices("cpu")[0].name
        self.shape, self.text = shape, text.astype(np.int64)
        self.window = np.arange(shape.context + 1)
        self.hidden = np.triu(np.full((shape.context, shape.context), -np.inf, np.float32), 1)
        # Parameters, gradient and moments, each one buffer with a view for each tensor.
        names = recipe.shapes(shape)
        size = sum(math.prod(sizes) for _, sizes in names)
        self.buffers = [np.zeros(size, np.float32) for _ in range(4)]
        self.p, self.g, self.first, self.second = (self.views(buffer, names) for buffer in self.buffers)
        ones = {name: np.full(sizes, len(sizes) > 1) for name, sizes in names}
        self.decays = np.concatenate([ones[name].ravel() for name, _ in names]).astype(np.float32)
        self.steps = 0

    @staticmethod
    def views(buffer, names):
        views, begin = {}, 0
        for name, sizes in names:
            end = begin + math.prod(sizes)
            views[name] = buffer[begin:end].reshape(sizes)
            begin = end
        return views

    def set_parameters(self, parameters):
        for buffer in self.buffers:
            buffer.fill(0)
        for name, values in parameters.items():
            self.p[name][...] = values
        self.steps = 0

    def state(self):
        return self.p, self.first, self.second

    def train(self, starts, rates):
        return np.array([self.step(row, rate) for row, rate in zip(starts, rates)], np.float32)

    def step(self, starts, rate):
        windows = self.text[starts[:, None] + self.window]
        loss, kept, d = self.loss(windows[:, :-1], windows[:, 1:])
        self.backward(windows[:, :-1], kept, d)
        self.adamw(rate)
        return loss

    def forward(self, tokens):
        p, kept = self.p, []
        x = p["transformer.wte.weight"][tokens] + p["transformer.wpe.weight"]
        for layer in range(self.shape.layers):
            block = f"transformer.h.{layer}."
            norm1 = layer_norm(x, p[block + "ln_1.weight"])
            qkv = norm1[0] @ p[block + "attn.c_attn.weight"].T
            weights, mixed = self.attention(qkv)
            x = x + mixed @ p[block + "attn.c_proj.weight"].T
            norm2 = layer_norm(x, p[block + "ln_2.weight"])
            hidden = norm2[0] @ p[block + "mlp.c_fc.weight"].T
            active, tanh = gelu(hidden)
            x = x + active @ p[block + "mlp.c_proj.weight"].T
            kept.append((norm1, qkv, weights, mixed, norm2, hidden, active, tanh))
        norm = layer_norm(x, p["transformer.ln_f.weight"])
        return norm[0] @ p["transformer.wte.weight"].T, (kept, norm)

    def loss(self, tokens, targets):
        """Returns the loss, what was kept, and the gradient of the logits."""
        logits, kept = self.forward(tokens)
        logits = rows(logits)
        logits -= logits.max(1, keepdims=True)
        place = np.arange(len(logits)), targets.ravel()
        chosen = logits[place]
        d = np.exp(logits, out=logits)
        sums = d.sum(1, keepdims=True)
        loss = float(np.mean(np.log(sums[:, 0]) - chosen, dtype=np.float64))
        d /= sums
        d[place] -= 1
        d /= np.float32(len(d))
        return loss, kept, d.reshape(*tokens.shape, -1)

    def split(self, qkv):
        """(batch, tokens, 3 width) as queries, keys and values of (batch, heads, tokens, width / heads)."""
        batch, tokens, _ = qkv.shape
        return qkv.reshape(batch, tokens, 3, self.shape.heads, -1).transpose(2, 0, 3, 1, 4)

    def attention(self, qkv):
        query, key, value = self.split(qkv)
        weights = query @ key.swapaxes(-1, -2) * np.float32(1 / math.sqrt(query.shape[-1]))
        weights += self.hidden
        weights -= weights.max(-1, keepdims=True)
        np.exp(weights, out=weights)
        weights /= weights.sum(-1, keepdims=True)
        mixed = weights @ value
        return weights, mixed.swapaxes(1, 2).reshape(*qkv.shape[:2], -1)

    def attention_backward(self, qkv, weights, d_mixed):
        query, key, value = self.split(qkv)
        d = d_mixed.reshape(*qkv.shape[:2], self.shape.heads, -1).swapaxes(1, 2)
        d_qkv = np.empty_like(qkv)
        d_query, d_key, d_value = self.split(d_qkv)  # views
        d_value[...] = weights.swapaxes(-1, -2) @ d
        d_scores = d @ value.swapaxes(-1, -2)
        d_scores -= np.sum(d_scores * weights, -1, keepdims=True)
        d_scores *= weights
        d_scores *= np.float32(1 / math.sqrt(query.shape[-1]))
        d_query[...] = d_scores @ key
        d_key[...] = d_scores.swapaxes(-1, -2) @ query
        return d_qkv

    def backward(self, tokens, kept, d):
        """Writes the whole gradient."""
        (blocks, norm), p, g = kept, self.p, self.g

        def linear(name, d, inputs):
            np.matmul(rows(d).T, rows(inputs), out=g[name])
            return d @ p[name]

        def normed(name, d, kept):
            d, g[name][...] = layer_norm_backward(d, p[name], *kept[1:])
            return d

        d = normed("transformer.ln_f.weight", linear("transformer.wte.weight", d, norm[0]), norm)
        for layer in reversed(range(self.shape.layers)):
            block = f"transformer.h.{layer}."
            norm1, qkv, weights, mixed, norm2, hidden, active, tanh = blocks[layer]
            d_hidden = linear(block + "mlp.c_proj.weight", d, active)
            d_hidden *= gelu_slope(hidden, tanh)
            d = d + normed(block + "ln_2.weight", linear(block + "mlp.c_fc.weight", d_hidden, norm2[0]), norm2)
            d_mixed = linear(block + "attn.c_proj.weight", d, mixed)
            d_qkv = self.attention_backward(qkv, weights, d_mixed)
            d = d + normed(block + "ln_1.weight", linear(block + "attn.c_attn.weight", d_qkv, norm1[0]), norm1)
        g["transformer.wpe.weight"][...] = d.sum(0)
        # As a product with the tokens' one-hot rows: `np.add.at` takes as long as the rest of the step.
        one_hot = np.zeros((tokens.size, self.shape.vocabulary), np.float32)
        one_hot[np.arange(tokens.size), tokens.ravel()] = 1
        g["transformer.wte.weight"] += one_hot.T @ rows(d)

    def adamw(self, rate):
        self.steps += 1
        parameters, gradient, first, second = self.buffers
        (beta1, beta2), steps = recipe.BETAS, self.steps
        norm = math.sqrt(np.dot(gradient, gradient))
        gradient *= np.float32(min(1.0, recipe.CLIP / (norm + recipe.CLIP_EPSILON)))
        parameters -= np.float32(rate * recipe.WEIGHT_DECAY) * self.decays * parameters
        first += np.float32(1 - beta1) * (gradient - first)
        second *= np.float32(beta2)
        gradient *= gradient
        gradient *= np.float32(1 - beta2)
        second += gradient
        root = np.sqrt(second, out=gradient)
        root *= np.float32(1 / math.sqrt(1 - beta2**steps))
        root += np.float32(recipe.EPSILON)
        np.divide(first, root, out=root)
        root *= np.float32(rate / (1 - beta1**steps))
        parameters -= root

    def predict(self, tokens):
        return self.forward(tokens)[0]


def devices(backend):
    return [trainer.cpu()]


if __name__ == "__main__":
    gpt.main(command, devices, Session)
