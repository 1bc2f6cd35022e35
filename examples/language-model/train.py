"""Letters given the two before them, by counting; plain Python."""
import collections, math, random, sys, time

path, steps, batch, seed = sys.argv[1], *map(int, sys.argv[2:5])
text = open(path, encoding="utf-8").read()
letters, cut = sorted(set(text)), len(text) * 9 // 10
train, held_out = text[:cut], text[cut:]
counts = collections.defaultdict(lambda: collections.Counter())
chance = random.Random(seed)


def bits(text):
    total = 0.0
    for at in range(2, len(text)):
        seen = counts[text[at - 2 : at]]
        total -= math.log2((seen[text[at]] + 0.1) / (sum(seen.values()) + 0.1 * len(letters)))
    return total / (len(text) - 2)


clock = time.monotonic()
for step in range(1, steps + 1):
    for _ in range(batch):
        at = chance.randrange(2, len(train))
        counts[train[at - 2 : at]][train[at]] += 1
    if step % (steps // 4) == 0:
        print(f"step {step}: loss {bits(train[:2000]) * math.log(2):.4f}", flush=True)
print(f"counted for {time.monotonic() - clock:.4f} s")
print(f"held out: {bits(held_out):.4f} bits")
