#!/usr/bin/env python3
"""What a step of the MLP would take through cuBLASLt: its three large products, in float32, in a CUDA
graph of 125 steps as the backend `cudagraph` replays them.

    python3 crates/backend-cuda/bench/cublaslt.py

    hidden (32, 512) = relu(images (32, 784) W1^T + b1)     one call, bias and ReLU in its epilogue
    logits (32, 10)  = hidden W2^T
    W1 (512, 784)   -= rate * delta^T images                one call, the update in its beta

Of the algorithms that cuBLASLt proposes for each, the fastest is taken. Not counted, to its advantage:
gathering the images and making float32 of them, softmax and loss, the gradient by the hidden values,
the gradients of fc2 and of both biases. Prints one JSON line: microseconds, medians of 20 replays, for
each product alone and for the three in turn, with `float32` and with `tf32` arithmetic. Needs PyTorch, for
memory, graphs and the library."""

import ctypes
import glob
import json
import os
import statistics
import sys

import torch

BATCH, PIXELS, HIDDEN, CLASSES = 32, 784, 512, 10
STEPS, REPLAYS, PROPOSALS, WORKSPACE_BYTES = 125, 20, 64, 32 << 20

# cublasLt.h and cublas_api.h
CUDA_R_32F = 0
COMPUTE = {"float32": 68, "tf32": 77}
DESC_TRANSA, DESC_TRANSB, DESC_EPILOGUE, DESC_BIAS_POINTER = 3, 4, 7, 8
OP_N, OP_T = 0, 1
EPILOGUE_RELU_BIAS = 6
PREFERENCE_WORKSPACE = 1


class Proposal(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t"""
    _fields_ = [("algorithm", ctypes.c_uint64 * 8), ("workspace_bytes", ctypes.c_size_t),
                ("state", ctypes.c_int), ("waves", ctypes.c_float), ("reserved", ctypes.c_int * 4)]


def library():
    for folder in [os.path.dirname(torch.__file__), *sys.path]:
        for pattern in ("nvidia/*/lib/libcublasLt.so.*", "../nvidia/*/lib/libcublasLt.so.*",
                        "lib/libcublasLt.so.*"):
            for path in sorted(glob.glob(os.path.join(folder, pattern))):
                return ctypes.CDLL(path)
    return ctypes.CDLL("libcublasLt.so")


LT = library()
HANDLE = ctypes.c_void_p()


def call(name, *arguments):
    status = getattr(LT, name)(*arguments)
    if status != 0:
        raise RuntimeError(f"{name}: status {status}")


def pointer(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


class Product:
    """out (m, n) = alpha op(a) op(b) + beta out, row by row. cuBLASLt counts column by column, so it is
    told of out^T = op(b)^T op(a)^T."""

    def __init__(self, out, a, a_transposed, b, b_transposed, compute, alpha=1.0, beta=0.0,
                 relu_bias=None):
        self.out, self.a, self.b = out, a, b
        self.alpha, self.beta = ctypes.c_float(alpha), ctypes.c_float(beta)
        self.operation = ctypes.c_void_p()
        call("cublasLtMatmulDescCreate", ctypes.byref(self.operation), COMPUTE[compute], CUDA_R_32F)
        self.set(DESC_TRANSA, ctypes.c_int32(OP_T if b_transposed else OP_N))
        self.set(DESC_TRANSB, ctypes.c_int32(OP_T if a_transposed else OP_N))
        if relu_bias is not None:
            self.set(DESC_EPILOGUE, ctypes.c_int32(EPILOGUE_RELU_BIAS))
            self.set(DESC_BIAS_POINTER, pointer(relu_bias))
        self.layouts = []
        for tensor in (b, a, out):
            layout = ctypes.c_void_p()
            rows, columns = tensor.shape
            call("cublasLtMatrixLayoutCreate", ctypes.byref(layout), CUDA_R_32F,
                 ctypes.c_uint64(columns), ctypes.c_uint64(rows), ctypes.c_int64(columns))
            self.layouts.append(layout)

    def set(self, attribute, value):
        call("cublasLtMatmulDescSetAttribute", self.operation, attribute, ctypes.byref(value),
             ctypes.c_size_t(ctypes.sizeof(value)))

    def proposals(self):
        preference, count = ctypes.c_void_p(), ctypes.c_int()
        call("cublasLtMatmulPreferenceCreate", ctypes.byref(preference))
        size = ctypes.c_size_t(WORKSPACE_BYTES)
        call("cublasLtMatmulPreferenceSetAttribute", preference, PREFERENCE_WORKSPACE,
             ctypes.byref(size), ctypes.c_size_t(8))
        found = (Proposal * PROPOSALS)()
        b, a, out = self.layouts
        call("cublasLtMatmulAlgoGetHeuristic", HANDLE, self.operation, b, a, out, out, preference,
             PROPOSALS, found, ctypes.byref(count))
        return [proposal for proposal in found[:count.value] if proposal.state == 0]

    def run(self, proposal, workspace):
        b, a, out = self.layouts
        call("cublasLtMatmul", HANDLE, self.operation, ctypes.byref(self.alpha), pointer(self.b), b,
             pointer(self.a), a, ctypes.byref(self.beta), pointer(self.out), out, pointer(self.out),
             out, ctypes.byref(proposal.algorithm), pointer(workspace),
             ctypes.c_size_t(WORKSPACE_BYTES),
             ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))

    def check(self, proposal, workspace, expected):
        self.run(proposal, workspace)
        torch.cuda.synchronize()
        error = (self.out - expected).norm() / expected.norm()
        if not error < 2e-3: # tf32 has ten bits
            raise RuntimeError(f"a product is wrong by {error}")


def microseconds(work, steps=STEPS, replays=REPLAYS):
    """Of one step in a graph of so many."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(steps):
            work()
    times = []
    for _ in range(replays + 1):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return 1e3 * statistics.median(times[1:]) / steps


def fastest(product, workspace):
    def time(proposal):
        return microseconds(lambda: product.run(proposal, workspace), 25, 5)
    return min(product.proposals(), key=time)


def main():
    torch.manual_seed(1)
    random = lambda *shape: torch.rand(*shape, device="cuda") - 0.4
    images, delta = random(BATCH, PIXELS), random(BATCH, HIDDEN)
    bias1, weight2 = random(HIDDEN), random(CLASSES, HIDDEN)
    workspace = torch.empty(WORKSPACE_BYTES, dtype=torch.uint8, device="cuda")
    call("cublasLtCreate", ctypes.byref(HANDLE))
    exact = lambda tensor: tensor.double()
    line = {"device": torch.cuda.get_device_name(), "pytorch": torch.__version__,
            "cublaslt": LT.cublasLtGetVersion()}
    for compute in COMPUTE:
        weight1, hidden = random(HIDDEN, PIXELS), torch.empty(BATCH, HIDDEN, device="cuda")
        logits = torch.empty(BATCH, CLASSES, device="cuda")
        forward = Product(hidden, images, False, weight1, True, compute, relu_bias=bias1)
        output = Product(logits, hidden, False, weight2, True, compute)
        update = Product(weight1, delta, True, images, False, compute, alpha=-0.01, beta=1.0)
        wanted = (exact(images) @ exact(weight1).T + exact(bias1)).relu()
        chosen = []
        for name, product, expected in [
                ("hidden", forward, wanted), ("logits", output, wanted @ exact(weight2).T),
                ("update", update, exact(weight1) - 0.01 * exact(delta).T @ exact(images))]:
            proposals = product.proposals()
            product.check(proposals[0], workspace, expected.float())
            best = fastest(product, workspace)
            chosen.append((product, best))
            time = microseconds(lambda: product.run(best, workspace))
            line[f"{compute}_{name}_us"] = round(time, 2)
            line[f"{compute}_{name}_proposals"] = len(proposals)
        step = lambda: [product.run(best, workspace) for product, best in chosen]
        line[f"{compute}_step_us"] = round(microseconds(step), 2)
    print(json.dumps(line))


main()
