#!/usr/bin/env python3
"""Our tokenizer against the `tokenizers` package: the bundled tokenizer as it is, and changed to
split, normalise and add tokens as other models do.

    tests/e2e/tokenizer_compare.py [--cli PROGRAM] [--tokenizer FILE] [--prompts FILE] [--strings N]
                                   [--seed N] [--long] [--bench]

Prints one line a case (TAP) and exits 1 on the first difference. Without the package it says so
and exits 77.
"""

import argparse
import copy
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time

try:
    import tokenizers
except ImportError:
    print("skipped: the Python package `tokenizers` is not installed")
    sys.exit(77)

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
ADD_SPECIAL, PARSE_SPECIAL = 1, 2

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]


class Ours:
    """tokenizer_cli, kept running."""

    def __init__(self, cli, path):
        self.process = subprocess.Popen([cli, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, op, flags, data):
        self.process.stdin.write(b"%s %d %d\n" % (op, flags, len(data)) + data)
        self.process.stdin.flush()
        head = self.process.stdout.readline().decode().rstrip("\n").split(" ", 2)
        if head[0] == "ok":
            return self.process.stdout.read(int(head[1]))
        raise ValueError(" ".join(head))

    def encode(self, data, flags):
        if isinstance(data, str):
            data = data.encode()
        reply = self.ask(b"e", flags, data)
        return list(struct.unpack("=%di" % (len(reply) // 4), reply))

    def decode(self, ids, skip, op):
        return self.ask(op, int(skip), struct.pack("=%di" % len(ids), *ids)).decode()

    def close(self):
        self.process.stdin.close()
        assert self.process.wait() == 0


def random_char(rng):
    ranges = [
        (0x20, 0x7E),
        (0x20, 0x7E),
        (0x00, 0x1F),
        (0x7F, 0xFF),
        (0x300, 0x36F),
        (0x370, 0x5FF),
        (0x600, 0x1FFF),
        (0x2000, 0x206F),
        (0x2100, 0x2BFF),
        (0x3000, 0x30FF),
        (0x4E00, 0x9FFF),
        (0xAC00, 0xD7A3),
        (0xE000, 0xFFFF),
        (0x10000, 0x1FFFF),
        (0x1F300, 0x1FAFF),
        (0x20000, 0x3FFFF),
        (0x40000, 0x10FFFF),
    ]
    low, high = rng.choice(ranges)
    c = rng.randint(low, high)
    return "\ufffd" if 0xD800 <= c <= 0xDFFF else chr(c)


MARKS = "\u0300\u0301\u0323\u0327\u0315\u0334\u0345\u05b0\u093c\u09be\u0a3c\u11a8\u1ac5\U00011d42"
SPACES = list(
    " \t\n\r\v\f\u0085\u00a0\u1680\u180e\u2000\u2003\u200b"
    "\u2028\u2029\u202f\u205f\u2060\u3000\ufeff\x1c\x1f"
)
PIECES = [
    "'s",
    "'S",
    "'ſ",
    "'t",
    "'ll",
    "'LL",
    "'re",
    "'ve",
    "'m",
    "'d",
    "K",
    "\u212a",
    "ſ",
    "ß",
    "'ß",
    "ﬆ",
    "İ",
    "ı",
    "👩‍👩‍👧‍👦",
    "🇩🇪",
    "☝🏽",
    "e\u0301",
    "a\u0328\u0301",
    "\u1100\u1161\u11a8",
    "กำ",
    "नमस्ते",
    "שָׁלוֹם",
    "السَّلام",
    "１２３",
    "½",
    "Ⅷ",
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|im_",
    "<|pad|>",
    "<|im_start|",
    "[mask]",
    "[keep]",
    "def f(x):\n",
    "    return",
    "\r\n",
    "\n\n\n",
    "12345678",
    "http://a.b/c?d=1",
    "ÀÉÎ",
    "straße",
    "Ελλάδα",
    "привет",
    "日本語",
    "한국어",
]


def random_string(rng):
    out = []
    for _ in range(rng.choice([1, 2, 3, 5, 8, 13, 21, 40])):
        kind = rng.random()
        if kind < 0.05:
            out.append(rng.choice("aeoAKÅçữकগ각") + "".join(rng.choice(MARKS) for _ in range(6)))
        elif kind < 0.25:
            out.append(random_char(rng) * rng.choice([1, 1, 1, 2, 3, 30]))
        elif kind < 0.45:
            out.append("".join(rng.choice(SPACES) for _ in range(rng.choice([1, 1, 2, 4, 9]))))
        elif kind < 0.5:
            out.append(rng.choice(" \n\ta0.") * rng.choice([2, 5, 17, 300]))
        elif kind < 0.75:
            out.append(rng.choice(PIECES))
        else:
            out.append(
                "".join(
                    rng.choice("etaoinshrdlucmfwypv ETAOIN019.,'")
                    for _ in range(rng.randint(1, 12))
                )
            )
    return "".join(out)


def split(pattern, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": "Isolated", "invert": False}


def byte_level(use_regex=False, prefix=False):
    return {
        "type": "ByteLevel",
        "add_prefix_space": prefix,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def sequence(*parts):
    return {"type": "Sequence", "pretokenizers": list(parts)}


def added(spec, content, **flags):
    vocab = spec["model"]["vocab"]
    fresh = len(vocab) + sum(token["content"] not in vocab for token in spec["added_tokens"])
    token = {
        "id": vocab.get(content, fresh),
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": False,
    }
    token.update(flags)
    spec["added_tokens"].append(token)


def variants(bundled):
    """Name and tokenizer.json of each case."""

    def case(name, pre=None, **fields):
        spec = copy.deepcopy(bundled)
        if pre:
            spec["pre_tokenizer"] = pre
        spec.update(fields)
        return name, spec

    yield case("bundled")
    yield case("llama3", sequence(split(LLAMA3), byte_level()))
    yield case("qwen2 (NFC)", sequence(split(QWEN2), byte_level()), normalizer={"type": "NFC"})
    yield case("gpt2", byte_level(True))
    yield case("prefix space", byte_level(True, True))
    yield case("gpt-oss", sequence(split(O200K), byte_level()))
    yield case("deepseek", sequence(*map(split, DEEPSEEK), byte_level()))
    yield case("granite", sequence({"type": "Digits", "individual_digits": True}, byte_level(True)))
    yield case("no split", byte_level())
    yield case(
        "literal", sequence(split("a.", "String"), split("\u4e00", "String"), byte_level(True))
    )
    name, spec = case("ignore_merges, legacy merges")
    # Every second merge is left out, so that tokens exist which merges do not reach.
    spec["model"]["merges"] = [" ".join(pair) for pair in spec["model"]["merges"][::2]]
    spec["model"]["ignore_merges"] = True
    yield name, spec
    name, spec = case("added tokens", normalizer={"type": "NFC"})
    added(spec, "[mask]", lstrip=True, special=True)
    added(spec, "[keep]", rstrip=True)
    added(spec, "日本", normalized=True)
    added(spec, "日本語é", normalized=True)
    added(spec, "def", lstrip=True, rstrip=True, normalized=True)
    added(spec, "'ll")
    yield name, spec
    name, spec = case(
        "template",
        post_processor={
            "type": "Sequence",
            "processors": [
                byte_level(),
                {
                    "type": "TemplateProcessing",
                    "single": [
                        {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                        {"Sequence": {"id": "A", "type_id": 0}},
                        {"SpecialToken": {"id": "<|pad|>", "type_id": 0}},
                    ],
                    "pair": [
                        {"Sequence": {"id": "A", "type_id": 0}},
                        {"Sequence": {"id": "B", "type_id": 0}},
                    ],
                    "special_tokens": {
                        "<|endoftext|>": {
                            "id": "<|endoftext|>",
                            "ids": [0],
                            "tokens": ["<|endoftext|>"],
                        },
                        "<|pad|>": {"id": "<|pad|>", "ids": [3], "tokens": ["<|pad|>"]},
                    },
                },
            ],
        },
    )
    yield name, spec


def fail(what, text, expected, found):
    print("not ok - %s\n# text     %a" % (what, text[:400]))
    print("# expected %a\n# found    %a" % (expected[:80], found[:80]))
    sys.exit(1)


def compare_decoded(name, theirs, ours, found, rng):
    # Ids of the text, and ids at random, whose bytes are seldom UTF-8; at once, byte by byte.
    for ids in (found, [rng.randrange(theirs.get_vocab_size()) for _ in range(rng.randint(0, 20))]):
        skip = rng.random() < 0.5
        expected = theirs.decode(ids, skip_special_tokens=skip)
        for op in (b"d", b"s"):
            text = ours.decode(ids, skip, op)
            if text != expected:
                fail("%s, decode %s" % (name, op), str(ids), expected, text)


def compare(name, theirs, ours, texts, rng, decoded=True):
    tokens = 0
    for text in texts:
        flags = rng.choice([0, ADD_SPECIAL, PARSE_SPECIAL, ADD_SPECIAL | PARSE_SPECIAL])
        theirs.encode_special_tokens = not flags & PARSE_SPECIAL
        expected = theirs.encode(text, add_special_tokens=bool(flags & ADD_SPECIAL)).ids
        found = ours.encode(text, flags)
        if expected != found:
            fail("%s, flags %d" % (name, flags), text, expected, found)
        tokens += len(found)
        if decoded:
            compare_decoded(name, theirs, ours, found, rng)
    return tokens


def all_characters():
    """Every character by itself and among others, so that each one's kind matters."""
    for start in range(0, 0x110000, 0x800):
        points = [chr(c) for c in range(start, start + 0x800) if not 0xD800 <= c <= 0xDFFF]
        yield " ".join("x" + c + c + "1" for c in points)
        yield "".join(" " + c + "\n" for c in points)
        yield "".join("a" + c + "\u0327\u0334" for c in points)


def refuses_bad_utf8(ours):
    for data in (
        b"\xff",
        b"a\xc0\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"ok\xe2\x82",
        b"\x80",
        b"\xf8\x88\x80\x80\x80",
    ):
        try:
            found = ours.encode(data, PARSE_SPECIAL)
        except ValueError as error:
            assert "UTF-8" in str(error), error
        else:
            fail("invalid UTF-8", str(data), ["an error"], found)


def bench(theirs, ours, texts):
    data = "".join(texts)
    times = max(1, (8 << 20) // len(data.encode()))
    seconds = float(ours.ask(b"b", times, data.encode()))
    theirs.encode_special_tokens = False
    chunks = texts * times
    start = time.perf_counter()
    for text in chunks:
        theirs.encode(text)
    cached = time.perf_counter() - start
    size = times * len(data.encode()) / 1e6
    print(
        "# encode: ours %.1f MB/s, tokenizers %s %.1f MB/s (with its cache warm)"
        % (size / seconds, tokenizers.__version__, size / cached)
    )


def main():
    parser = argparse.ArgumentParser()
    built = os.path.join(os.environ.get("B", "build"), "tests/e2e/tokenizer_cli")
    parser.add_argument("--cli", default=built)
    parser.add_argument("--tokenizer", default=os.path.join(ROOT, "models/tiny/tokenizer.json"))
    parser.add_argument("--prompts", default=os.path.join(ROOT, "tests/data/prompts.json"))
    parser.add_argument("--strings", type=int, default=1000 if os.environ.get("SAN") else 10000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--long", action="store_true", default=bool(os.environ.get("MT_LONG")))
    parser.add_argument("--bench", action="store_true")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with open(args.tokenizer, encoding="utf-8") as file:
        bundled = json.load(file)
    with open(args.prompts, encoding="utf-8") as file:
        prompts = [text for group in json.load(file).values() for text in group]
    count = 0
    for name, spec in variants(bundled):
        rng = random.Random("%d %s" % (args.seed, name))
        first = name == "bundled"
        texts = prompts + [
            random_string(rng) for _ in range(args.strings if first else args.strings // 10)
        ]
        texts += ["", "a" * 100000, " " * 100000 + "x", "\n \n" * 20000, "1" * 50000]
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "tokenizer.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(spec, file)
            theirs = tokenizers.Tokenizer.from_file(path)
            ours = Ours(args.cli, path)
            tokens = compare(name, theirs, ours, texts, rng)
            if first or (args.long and name in ("qwen2 (NFC)", "gpt-oss", "deepseek")):
                texts += all_characters()
                tokens += compare(name, theirs, ours, all_characters(), rng, False)
            refuses_bad_utf8(ours)
            count += 1
            print("ok %d - %s: %d texts, %d tokens" % (count, name, len(texts), tokens), flush=True)
            if first and args.bench:
                bench(theirs, ours, prompts)
            ours.close()
    print("1..%d" % count)


main()
