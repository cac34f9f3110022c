#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/tiny.json: texts and their ids by the `tokenizers` package with the
bundled model's tokenizer, special tokens parsed. Run in the root of the tree.

    python3 tests/golden/tokenizer/make_tiny.py
"""

import json
import random

import tokenizers

TEXTS = [
    "Hello world",
    " Hello  world",
    "def f(x):\n    return x\n",
    "SELECT a, b FROM t WHERE a = 'x';",
    "And God said, Let there be light: and there was light.",
    "It's he'll WE'RE I'd y'all don't 'tis",
    "It'ſ 'S 'ſ 'T",
    "1234567890 3.14159 0x1F ½ Ⅷ １２３",
    "straße ÀÉÎ ﬆ ﬁ İı",
    "\u212a\u212b K Å",
    "e\u0301 é a\u0328\u0301",
    "日本語のテキスト、中文文本。한국어",
    "привет мир Ελλάδα שלום السلام नमस्ते",
    "👩‍👩‍👧‍👦 🇩🇪 ☝🏽 😀😀😀",
    "<|im_start|>user\nhi<|im_end|>\n",
    "<|endoftext|>a<|pad|>b<|im_start|",
    "<|im_<|im_end|>",
    "\t\t\n\n\r\n \r \v\f",
    "a\u0085b\u00a0c\u1680d\u180ee\u2003f\u200bg\u2028h\u2029i\u202fj\u205fk\u2060l\u3000m\ufeffn",
    " \u180e \u180e\u180e x",
    "\u1c89\u1c8a\U00010d50 \U0002ebf0\U0002ee5d \U00031350 \u0897\U0001cc00",
    "\U0010ffff\ue000\ufffe\ufffd",
    "!!!???...---___ ;;; <<>> #$%^&*()",
    "http://example.org/a/b?c=d&e=f#g",
    "   trailing   ",
    "a  b   c    d     e",
    "\x01\x02\x1b[0m\x7f",
]


def texts():
    yield from TEXTS
    yield ""
    yield " "
    yield "\n"
    yield "\n\n\n   \n x\n"
    yield " " * 300
    yield "a" * 300
    yield "ab\u0301" * 50
    yield "\0a\0"
    rng = random.Random(7)
    for _ in range(60):
        points = [
            rng.choice((0x20, 0x61, 0x0A, 0x31, 0x2E, 0xE9, 0x4E2D, 0x1F600)) for _ in range(8)
        ]
        points += [rng.randrange(0x110000) for _ in range(6)]
        rng.shuffle(points)
        yield "".join(chr(c) for c in points if not 0xD800 <= c <= 0xDFFF)


def main():
    tokenizer = tokenizers.Tokenizer.from_file("models/tiny/tokenizer.json")
    cases = [{"text": t, "ids": tokenizer.encode(t).ids} for t in texts()]
    with open("tests/golden/tokenizer/tiny.json", "w", encoding="ascii") as file:
        file.write("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


main()
