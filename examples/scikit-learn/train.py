"""scikit-learn's own MLPClassifier as a trainer: reads the data that the harness names, prints event
lines, writes its predictions. `partial_fit` is one epoch, so that each can be timed."""

import gzip
import json
import os
import sys
import time
from pathlib import Path

BEGAN = time.perf_counter()
arguments = sys.argv[1:]
hidden, epochs, batch, seed = (int(word) for word in arguments[:4])
rate = float(arguments[4])
if len(arguments) > 5:
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = arguments[5]

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier


def read(name, header):
    file = Path(os.environ["TRAINMARK_DATA"]) / name
    content = file.read_bytes() if file.exists() else gzip.open(f"{file}.gz").read()
    return np.frombuffer(content, np.uint8, offset=header)


def say(event, **keys):
    print(":::TRAINMARK " + json.dumps({"event": event, **keys}), flush=True)


images = read("train-images-idx3-ubyte", 16).reshape(-1, 784).astype(np.float32) / 255
labels = read("train-labels-idx1-ubyte", 8)
test_images = read("t10k-images-idx3-ubyte", 16).reshape(-1, 784).astype(np.float32) / 255
test_labels = read("t10k-labels-idx1-ubyte", 8)
model = MLPClassifier(
    (hidden,), solver="sgd", alpha=0, momentum=0, batch_size=batch, learning_rate_init=rate,
    random_state=seed,
)
say("started", protocol=1, version=sklearn.__version__, precision="float32")
say("ready", setup_s=time.perf_counter() - BEGAN)
train_s = 0.0
for epoch in range(1, epochs + 1):
    clock = time.perf_counter()
    model.partial_fit(images, labels, classes=np.arange(10))
    seconds = time.perf_counter() - clock
    train_s += seconds
    say("epoch", epoch=epoch, loss=float(model.loss_), seconds=seconds)
say("trained", train_s=train_s, steps=epochs * -(-len(images) // batch))
clock = time.perf_counter()
predicted = model.predict(test_images).astype(np.uint8)
percent = 100 * float(np.mean(predicted == test_labels))
say("evaluated", eval_s=time.perf_counter() - clock, accuracy_percent=percent)
Path(os.environ["TRAINMARK_PREDICTIONS"]).write_bytes(predicted.tobytes())
print(f"Test Accuracy: {percent:.2f}%")
