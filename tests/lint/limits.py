#!/usr/bin/env python3
"""Size limits and banned words, over the C files that git knows.

A file has at most 700 lines, a line 100 columns, a function 80 lines and, outside tests (where long
lists of && are what is checked), a cyclomatic complexity of 20: decisions if, for, while, case, &&,
||, ?: plus one. It relies on the house style: a function's braces stand in column 0. Prints each
breach as file:line; exits 1 if there is one.
"""

import re
import subprocess
import sys

MAX_FILE, MAX_WIDTH, MAX_FUNCTION, MAX_COMPLEXITY = 700, 100, 80, 20
MAX_MAKEFILE = 200

DECISION = re.compile(r"\b(?:if|for|while|case)\b|&&|\|\||\?")
STRING = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'')
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
PIECE = re.compile(f"{STRING.pattern}|{COMMENT.pattern}", re.S)

NOTES = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
# Function -> what to use instead. Not for tests: their strings are their own.
BANNED = {
    "strcpy": "memcpy or snprintf", "strcat": "snprintf", "sprintf": "snprintf",
    "vsprintf": "vsnprintf", "gets": "fgets", "strncpy": "snprintf", "strncat": "snprintf",
    "strtok": "strsep", "atoi": "strtol", "atol": "strtol", "atof": "strtod", "rand": "Philox",
    "srand": "Philox", "alloca": "a capped buffer", "system": "posix_spawn",
    "popen": "posix_spawn", "tmpnam": "mkstemp", "mktemp": "mkstemp",
    "usleep": "nanosleep or a poll",
}
# Libraries return errors; only programs end, and only they log.
BANNED_IN_LIBRARIES = {
    "exit": "an error", "abort": "an error", "assert": "an error", "perror": "an error",
    "log_event": "a callback",
}


def blank_out(text):
    """Replaces comments and literals by spaces, keeping lines and columns."""
    return PIECE.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def functions(lines):
    """Yields (first line, last line), counted from 0, of each function definition."""
    start = None
    for i, line in enumerate(lines):
        if line.startswith("{"):
            start = i
            while start > 0 and lines[start - 1].strip() and lines[start - 1][0] not in "}#":
                start -= 1
        elif line.startswith("}") and start is not None:
            yield start, i
            start = None


def breaches(path, text):
    """Yields (line from 1, what is wrong)."""
    lines = text.split("\n")
    if len(lines) - 1 > MAX_FILE:
        yield len(lines) - 1, f"{len(lines) - 1} lines, at most {MAX_FILE}"
    for i, line in enumerate(lines):
        if len(line) > MAX_WIDTH:
            yield i + 1, f"{len(line)} columns, at most {MAX_WIDTH}"
        if "\t" in line or line != line.rstrip():
            yield i + 1, "tab, or blanks at the end"
        if NOTES.search(line):
            yield i + 1, f"{NOTES.search(line)[0]}: do it, or file it elsewhere"
    code = blank_out(text).split("\n")
    for first, last in functions(code):
        body = "\n".join(code[first:last + 1])
        complexity = 1 + len(DECISION.findall(body))
        if last - first + 1 > MAX_FUNCTION:
            yield first + 1, f"function of {last - first + 1} lines, at most {MAX_FUNCTION}"
        if complexity > MAX_COMPLEXITY and not path.startswith("tests/"):
            yield first + 1, f"function of complexity {complexity}, at most {MAX_COMPLEXITY}"
    yield from banned_words(path, code)


def banned_words(path, code):
    """Yields calls that are not wanted."""
    if path.startswith("tests/"):
        return
    banned = dict(BANNED)
    if not path.endswith("/main.c"):
        banned.update(BANNED_IN_LIBRARIES)
    call = re.compile(r"(?<![\w.>])(" + "|".join(banned) + r")\s*\(")
    for i, line in enumerate(code):
        for match in call.finditer(line):
            if path in ("api/log.c", "api/log.h") and match[1] == "log_event":
                continue
            yield i + 1, f"{match[1]}: use {banned[match[1]]}"


def main():
    """Checks what is named, or all that git knows."""
    names = sys.argv[1:] or subprocess.run(["git", "ls-files", "*.c", "*.h", "*.cu", "*.cuh"],
                                           capture_output=True, text=True,
                                           check=True).stdout.split()
    bad = 0
    for path in names:
        with open(path, encoding="utf8") as source:
            for line, what in breaches(path, source.read()):
                print(f"{path}:{line}: {what}")
                bad += 1
    with open("Makefile", encoding="utf8") as makefile:
        lines = len(makefile.readlines())
    if lines > MAX_MAKEFILE:
        print(f"Makefile: {lines} lines, at most {MAX_MAKEFILE}")
        bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
