"""Turns free Debian packages and sources into one text file per domain, for train.py.

SOURCE is a folder that holds
  packages/  the unpacked packages wordnet-base python3.11-doc postgresql-doc-15 sqlite3-doc
             libpython3.11-stdlib (Debian 12: `apt-get download` and `dpkg-deb -x`)
  sources/   the unpacked upstream sources of postgresql-15 sqlite3 lua5.4 redis
             (`apt-get source --download-only` and `tar -xf`)
and the program `bible` (package bible-kjv) is on the PATH. Writes OUTPUT/<domain>.txt, documents
separated by a newline and a NUL. The same input gives the same files: the order is that of
random.seed(0).
"""

import argparse
import glob
import os
import random
import re
import subprocess
from html.parser import HTMLParser

SEPARATOR = "\n\x00"
WORDNET_POS = {"noun": "noun", "verb": "verb", "adj": "adjective", "adv": "adverb"}
LANGUAGES = {"de": "German", "fr": "French", "es": "Spanish"}


class TextOfHtml(HTMLParser):
    """Collects the text of a page: one line per block, blanks folded outside <pre>."""

    SKIPPED = {"script", "style", "head", "nav"}
    BLOCKS = {"p", "div", "li", "h1", "h2", "h3", "h4", "h5", "tr", "pre", "br", "dt", "dd",
              "table", "ul", "ol"}

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.pieces = []
        self.skipping = 0
        self.preformatted = 0

    def handle_starttag(self, tag, attrs):
        if tag in self.SKIPPED:
            self.skipping += 1
        if tag == "pre":
            self.preformatted += 1
        if tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_endtag(self, tag):
        if tag in self.SKIPPED and self.skipping:
            self.skipping -= 1
        if tag == "pre" and self.preformatted:
            self.preformatted -= 1
        if tag in self.BLOCKS:
            self.pieces.append("\n")

    def handle_data(self, data):
        if not self.skipping:
            self.pieces.append(data if self.preformatted else re.sub(r"\s+", " ", data))


def html_to_text(path):
    """Returns the text of one HTML file."""
    parser = TextOfHtml()
    with open(path, errors="replace") as page:
        parser.feed(page.read())
    text = "".join(parser.pieces)
    text = re.sub(r"[ \t]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def manual(pattern, min_length=400):
    """Returns the texts of all HTML files of a manual that are worth a document."""
    documents = []
    for path in sorted(glob.glob(pattern, recursive=True)):
        try:
            text = html_to_text(path)
        except Exception:  # a page that cannot be read is left out
            continue
        text = text.replace("\u00b6", "")
        if len(text) > min_length:
            documents.append(text)
    return documents


def scripture():
    """Returns the chapters of the King James Bible, as the program `bible` prints them."""
    command = ["bible", "-f", "gen1:1-rev22:21"]
    verses = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    chapters = {}
    for line in verses.splitlines():
        match = re.match(r"(\S+?)(\d+):(\d+) (.*)", line)
        if match:
            chapter = chapters.setdefault((match[1], match[2]), [])
            chapter.append(f"{match[3]} {match[4]}")
    return [f"{book} {number}\n\n" + "\n".join(lines)
            for (book, number), lines in chapters.items()]


def glossary(folder):
    """Returns WordNet's glosses, twelve entries in random order to a document."""
    entries = []
    for part, name in WORDNET_POS.items():
        with open(f"{folder}/data.{part}") as data:
            for line in data:
                if line.startswith("  "):  # the licence at the head of the file
                    continue
                fields, gloss = line.rstrip().split(" | ", 1)
                fields = fields.split()
                count = int(fields[3], 16)
                words = [fields[4 + 2 * i].replace("_", " ") for i in range(count)]
                words = ", ".join(re.sub(r"\(\w+\)", "", word) for word in words)
                entries.append(f"{words} ({name}): {gloss.strip()}")
    random.shuffle(entries)
    return ["\n".join(entries[i:i + 12]) for i in range(0, len(entries), 12)]


def code(patterns, cap, min_length=500, max_length=400000, max_line=400):
    """Returns source files in random order, until their characters exceed cap."""
    paths = sorted({path for pattern in patterns for path in glob.glob(pattern, recursive=True)})
    random.shuffle(paths)
    documents = []
    total = 0
    for path in paths:
        try:
            with open(path, encoding="utf8") as source:
                text = source.read()
        except Exception:  # not UTF-8, or not a file
            continue
        if min_length < len(text) < max_length and max(map(len, text.splitlines())) < max_line:
            documents.append(text)
            total += len(text)
            if total > cap:
                break
    return documents


def po_text(quoted):
    """Joins the quoted lines of a gettext string and undoes its escapes."""
    text = "".join(re.findall(r'"(.*)"', quoted))
    return text.replace("\\n", "\n").replace('\\"', '"').replace("\\t", "\t").strip()


def messages(sources, locale):
    """Returns PostgreSQL's messages with their translations, ten to a document."""
    documents = []
    for path in sorted(glob.glob(f"{sources}/postgresql*/**/{locale}.po", recursive=True)):
        with open(path, encoding="utf8", errors="replace") as catalogue:
            text = catalogue.read()
        items = []
        for match in re.finditer(r'^msgid ((?:".*"\n)+)msgstr ((?:".*"\n)+)', text, re.M):
            english, translated = po_text(match[1]), po_text(match[2])
            if english and translated and english != translated:
                items.append(f"English: {english}\n{LANGUAGES[locale]}: {translated}")
        documents += ["\n".join(items[i:i + 10]) for i in range(0, len(items), 10)]
    return documents


def save(folder, name, documents):
    """Writes one domain and prints its size."""
    documents = [document.strip() for document in documents if document.strip()]
    text = SEPARATOR.join(documents)
    with open(f"{folder}/{name}.txt", "w") as out:
        out.write(text)
    print(f"{name}: {len(documents)} documents, {len(text) / 1e6:.1f} M characters")


def main():
    """Writes all domains. Their order matters: they draw from one random generator."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder with packages/ and sources/")
    parser.add_argument("output", help="folder for the text files; made if missing")
    args = parser.parse_args()
    packages, sources = f"{args.source}/packages", f"{args.source}/sources"
    doc = f"{packages}/usr/share/doc"

    os.makedirs(args.output, exist_ok=True)
    random.seed(0)
    save(args.output, "pydoc", manual(f"{doc}/python3.11/html/**/*.html"))
    save(args.output, "pgdoc", manual(f"{doc}/postgresql-doc-15/**/*.html"))
    save(args.output, "sqlitedoc", manual(f"{doc}/sqlite3/**/*.html"))
    save(args.output, "scripture", scripture())
    save(args.output, "glossary", glossary(f"{packages}/usr/share/wordnet"))
    save(args.output, "c", code([f"{sources}/postgresql*/src/backend/**/*.c",
                                 f"{sources}/postgresql*/src/bin/**/*.c",
                                 f"{sources}/postgresql*/contrib/**/*.c",
                                 f"{sources}/sqlite3*/src/*.c",
                                 f"{sources}/sqlite3*/ext/**/*.c",
                                 f"{sources}/lua*/src/*.c",
                                 f"{sources}/redis*/src/*.c"], cap=34e6))
    save(args.output, "python", code([f"{packages}/usr/lib/python3.11/**/*.py"], cap=24e6))
    save(args.output, "sql", code([f"{sources}/postgresql*/src/test/regress/sql/*.sql",
                                   f"{sources}/postgresql*/contrib/*/sql/*.sql",
                                   f"{sources}/sqlite3*/test/*.test"], cap=12e6))
    for locale, language in LANGUAGES.items():
        save(args.output, language.lower(), messages(sources, locale))


if __name__ == "__main__":
    main()
