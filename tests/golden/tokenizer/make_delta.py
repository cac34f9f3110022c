#!/usr/bin/env python3
"""Writes daemon/unicode_delta.c: the characters whose category is not the same in Unicode 14
(PCRE2 10.42, Python 3.11) and in the tables of the `tokenizers` package, with a stand-in of the
same category and UTF-8 length for each.

    python3 tests/golden/tokenizer/make_delta.py > daemon/unicode_delta.c
"""

import sys
import unicodedata

import tokenizers
from tokenizers import Regex, pre_tokenizers

CATEGORIES = (
    "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf " "Co"
).split()
# Old characters that no split pattern names by themselves, by category and length in UTF-8.
STAND_INS = {
    ("Lu", 3): 0x1E00,
    ("Ll", 3): 0x1E01,
    ("Lo", 3): 0x1200,
    ("Lm", 3): 0x1D2C,
    ("Mn", 3): 0x1DC0,
    ("Mc", 3): 0x1B04,
    ("Po", 3): 0x1B5A,
    ("So", 3): 0x1B61,
    ("Cf", 3): 0x2060,
    ("Sk", 3): 0x1FBD,
    ("Nd", 3): 0x1B50,
    ("Mn", 2): 0x0591,
    ("Lu", 4): 0x10400,
    ("Ll", 4): 0x10428,
    ("Lo", 4): 0x10450,
    ("Lm", 4): 0x10780,
    ("Mn", 4): 0x10A01,
    ("Mc", 4): 0x11000,
    ("Nd", 4): 0x104A0,
    ("No", 4): 0x10107,
    ("Po", 4): 0x10100,
    ("Pd", 4): 0x10EAD,
    ("Sm", 4): 0x1D6C1,
    ("So", 4): 0x10137,
    ("Cf", 4): 0x110BD,
}


def main():
    assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
    points = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    text = "".join(map(chr, points))
    newer = dict.fromkeys(points, "Cn")
    for category in CATEGORIES:
        inside = pre_tokenizers.Split(Regex("[^\\p{%s}]+" % category), "removed")
        for word, _ in inside.pre_tokenize_str(text):
            for c in word:
                newer[ord(c)] = category
    ranges = []
    for c in points:
        # PCRE2 takes U+180E for a space, as Perl once did.
        if newer[c] == unicodedata.category(chr(c)) and c != 0x180E:
            continue
        stand_in = STAND_INS[newer[c], len(chr(c).encode())]
        assert unicodedata.category(chr(stand_in)) == newer[stand_in] == newer[c], hex(stand_in)
        assert len(chr(stand_in).encode()) == len(chr(c).encode())
        if ranges and ranges[-1][1] == c - 1 and ranges[-1][2] == stand_in:
            ranges[-1][1] = c
        else:
            ranges.append([c, c, stand_in])
    out = sys.stdout
    out.write(
        "/* Written by tests/golden/tokenizer/make_delta.py with tokenizers %s; not by hand. */\n"
        % tokenizers.__version__
    )
    out.write('#include "daemon/unicode_delta.h"\n\n')
    out.write("const struct unicode_delta unicode_delta[] = {\n")
    for i in range(0, len(ranges), 3):
        row = ["{0x%05x, 0x%05x, 0x%05x}," % tuple(r) for r in ranges[i : i + 3]]
        out.write("    " + " ".join(row) + "\n")
    out.write("};\n\nconst size_t unicode_delta_count =")
    out.write(" sizeof(unicode_delta) / sizeof(unicode_delta[0]);\n")


main()
