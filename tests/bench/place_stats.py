#!/usr/bin/env python3
"""What a routing trace is like: the figures that generated traces (placement/gen.h) are fitted to.

    tests/bench/place_stats.py TRACE.json... [--ranks 8]

A trace is the .json beside its .u8 or .u16; a file with "logical_count" (SGLang's expert
distribution) has loads only. One line each, means over layers:
    hot       load of the hottest expert / mean (and the worst layer's)
    cold      experts with less than a quarter of the mean load, share
    ranks     max / mean load over ranks of contiguous experts
    drift     the same for experts packed by the first half of the documents, scored on the second
    S         distinct ranks that serve a token in a layer, contiguous (and if experts were
              independent with the same loads)
    mate3     share of an expert's companions in a token that its three commonest make up
              (and if they were independent)
    next3     the same of the experts of a token in the next layer
    repeat    experts that a token shares with the token before it, of topk, and with the token 20
              before it in the same document
    documents count, and tokens of the median and the longest
"""

import argparse
import array
import bisect
import itertools
import json
import random
import sys

PAIRS = 6000  # tokens that are looked at for what costs topk squared


def read(path):
    head = json.load(open(path, encoding="utf8"))
    if "logical_count" in head:
        return head, None
    wide = head["experts"] > 256
    ids = array.array("H" if wide else "B")
    with open(path[:-5] + (".u16" if wide else ".u8"), "rb") as f:
        ids.frombytes(f.read())
    if wide and sys.byteorder == "big":
        ids.byteswap()
    return head, ids


def max_mean(values):
    return max(values) * len(values) / sum(values)


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def contiguous(load, ranks):
    rank = [0.0] * ranks
    for e, n in enumerate(load):
        rank[e * ranks // len(load)] += n
    return max_mean(rank)


def packed(fit, score, ranks):
    """Greedy packing of equally many experts a rank by one load, scored by another."""
    rank, held, seen = [0.0] * ranks, [0] * ranks, [0.0] * ranks
    for e in sorted(range(len(fit)), key=lambda e: -fit[e]):
        g = min((g for g in range(ranks) if held[g] < -(-len(fit) // ranks)), key=lambda g: rank[g])
        rank[g] += fit[e]
        seen[g] += score[e]
        held[g] += 1
    return max_mean(seen)


def count(head, ids, first, last, layer):
    layers, topk = head["layers"], head["topk"]
    load = [0] * head["experts"]
    for k in range(topk):
        for e in ids[(first * layers + layer) * topk + k:last * layers * topk:layers * topk]:
            load[e] += 1
    return load


def top3(pairs, totals, popular):
    """Share of the three commonest partners, and of the three most popular experts."""
    found = sum(sum(sorted(row, reverse=True)[:3]) for row in pairs) / max(1, sum(map(sum, pairs)))
    return found, sum(sorted(popular, reverse=True)[:3]) / max(1, totals)


def distinct(load, topk, experts, ranks, rng):
    """Distinct ranks of topk independent draws without repetition."""
    seen = 0
    for _ in range(500):
        chosen = set()
        while len(chosen) < topk:
            chosen.update(rng.choices(range(experts), load, k=topk - len(chosen)))
        seen += len({e * ranks // experts for e in chosen})
    return seen / 500


def shared(head, ids, layer, tokens, lag):
    """Part of a token's experts that it shares with the one lag tokens before, in a document."""
    layers, topk = head["layers"], head["topk"]
    starts = list(itertools.accumulate([0] + head["documents"]))
    both = pairs = 0
    for t in tokens:
        if t - lag < starts[bisect.bisect(starts, t) - 1]:
            continue
        at = (t * layers + layer) * topk
        before = at - lag * layers * topk
        both += len(set(ids[at:at + topk]) & set(ids[before:before + topk]))
        pairs += topk
    return both / max(1, pairs)


def layer_pairs(head, ids, layer, tokens, ranks):
    """Companions within the layer, successors in the next, mean distinct ranks."""
    layers, topk, n = head["layers"], head["topk"], head["experts"]
    mates = [[0] * n for _ in range(n)]
    nexts = [[0] * n for _ in range(n)]
    spread = 0
    for t in tokens:
        at = (t * layers + layer) * topk
        mine = ids[at:at + topk]
        follow = ids[at + topk:at + 2 * topk] if layer + 1 < layers else ()
        spread += len({e * ranks // n for e in mine})
        for e in mine:
            row, after = mates[e], nexts[e]
            for f in mine:
                row[f] += 1
            row[e] -= 1
            for f in follow:
                after[f] += 1
    return mates, nexts, spread / len(tokens)


def loads_only(path, counts, ranks):
    rows = [row for row in counts if sum(row)]
    print(f"{path}: {len(rows)} layers, {len(rows[0])} experts, loads only\n"
          f"  hot {mean(map(max_mean, rows)):.2f} ({max(map(max_mean, rows)):.2f})  "
          f"cold {mean(sum(4 * n * len(r) < sum(r) for n in r) / len(r) for r in rows):.3f}  "
          f"ranks {mean(contiguous(r, ranks) for r in rows):.3f}")


def report(path, ranks):
    head, ids = read(path)
    if ids is None:
        loads_only(path, head["logical_count"], ranks)
        return
    layers, topk, n, tokens = head["layers"], head["topk"], head["experts"], head["tokens"]
    documents = head["documents"]
    half = sum(documents[:max(1, len(documents) // 2)])
    rng = random.Random(1)
    sample = rng.sample(range(tokens), min(tokens, PAIRS))
    lines = []
    for layer in range(layers):
        load = count(head, ids, 0, tokens, layer)
        fit = count(head, ids, 0, half, layer)
        mates, nexts, spread = layer_pairs(head, ids, layer, sample, ranks)
        mate, mate0 = top3(mates, sum(load), load) if topk > 1 else (0, 0)
        after = count(head, ids, 0, tokens, layer + 1) if layer + 1 < layers else load
        follow, follow0 = top3(nexts, sum(after), after)
        lines.append((max_mean(load), sum(4 * x * n < sum(load) for x in load) / n,
                      contiguous(load, ranks),
                      packed(fit, [a - b for a, b in zip(load, fit)], ranks) if half < tokens else 0,
                      spread, distinct(load, topk, n, ranks, rng), mate, mate0,
                      follow if layer + 1 < layers else None, follow0,
                      shared(head, ids, layer, sample, 1), shared(head, ids, layer, sample, 20)))
    c = [mean(x for x in column if x is not None) for column in zip(*lines)]
    print(f"{path}: {layers} layers, {n} experts, top-{topk}, {tokens} tokens\n"
          f"  hot {c[0]:.2f} ({max(x[0] for x in lines):.2f})  cold {c[1]:.3f}  ranks {c[2]:.3f}  "
          f"drift {c[3]:.3f}  S {c[4]:.2f} ({c[5]:.2f})  mate3 {c[6]:.3f} ({c[7]:.3f})  "
          f"next3 {c[8]:.3f} ({c[9]:.3f})  repeat {c[10]:.3f} {c[11]:.3f}  documents {len(documents)} "
          f"{sorted(documents)[len(documents) // 2]} {max(documents)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="+")
    parser.add_argument("--ranks", type=int, default=8)
    args = parser.parse_args()
    for path in args.trace:
        report(path, args.ranks)


if __name__ == "__main__":
    main()
