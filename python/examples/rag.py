"""Retrieval for a prompt, over the documentation that comes with Python itself.

    python rag.py [folder]

1. Passages are taken from the docstrings of standard modules: real text, nothing to download.
2. A small embedder turns a text into a vector: it hashes words, pairs of words and stems into 1024 numbers. A
   program would use a trained model here; only `embed` would change.
3. Passages go into a collection with string keys; the text and where it is from are the payload.
4. A question is embedded the same way, the nearest passages are read and put into a prompt.
5. The store is opened again, as the next run of a program would, and gives the same answers.
"""

from __future__ import annotations

import importlib
import inspect
import math
import re
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

import nearstone

DIM = 1024
MODULES = """
argparse array base64 bisect calendar collections concurrent.futures contextlib copy csv datetime decimal
difflib email.message enum fileinput fnmatch fractions functools glob gzip hashlib heapq html http.client
inspect io itertools json logging math mimetypes multiprocessing os pathlib pickle platform pprint queue
random re secrets select shelve shlex shutil signal socket sqlite3 stat statistics string struct subprocess
tarfile tempfile textwrap threading time timeit tokenize traceback types typing unittest urllib.parse
urllib.request uuid warnings weakref zipfile zlib
""".split()
QUESTIONS = [
    "How do I wrap a paragraph of text into lines of a given width?",
    "Keep a heap so that the smallest item can be popped first",
    "Run a command with arguments and return its output",
    "Which function returns the close matches of a misspelled word from a list?",
    "create a temporary directory that is removed when the context ends",
]
COMMON = set(
    "a an and are as at be by can do does for from given has have how i if in is it its may my no not of on "
    "or so that the their then there this to use used using when which will with you your".split()
)


def words(text: str) -> list[str]:
    """Lower-case words, CamelCase and snake_case taken apart, without the most common ones."""
    text = re.sub(r"([a-z])([A-Z])", r"\1 \2", text)
    return [word for word in re.findall(r"[a-z]+|\d+", text.lower()) if word not in COMMON and len(word) > 1]


def embed(text: str) -> npt.NDArray[np.float32]:
    """A unit vector of DIM numbers: each feature of the text adds to or subtracts from one of them, by its
    hash."""
    found = words(text)
    features = Counter(found)
    features.update(f"{a} {b}" for a, b in zip(found, found[1:], strict=False))
    features.update(f"{word[:5]}*" for word in found)
    vector = np.zeros(DIM, dtype=np.float32)
    for feature, count in features.items():
        # crc32 and not hash(): the same in every process.
        code = zlib.crc32(feature.encode())
        vector[code % DIM] += (1.0 + math.log(count)) * (1.0 if code & 0x8000_0000 else -1.0)
    length = float(np.linalg.norm(vector))
    if length == 0.0:
        # Nothing to go by. A zero vector has no direction and is refused under cosine.
        vector[0] = length = 1.0
    return vector / length


def passages() -> Iterator[tuple[str, dict[str, object]]]:
    """Key and payload of every passage: a docstring, or a part of a long one."""
    seen = set()
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        subjects = [(module_name, module)] + [
            (f"{module_name}.{name}", member)
            for name, member in sorted(vars(module).items())
            if not name.startswith("_") and (inspect.isroutine(member) or inspect.isclass(member))
        ]
        for name, subject in subjects:
            doc = inspect.getdoc(subject) if inspect.ismodule(subject) else getattr(subject, "__doc__", None)
            if not isinstance(doc, str):
                continue
            for number, text in enumerate(pieces(inspect.cleandoc(doc))):
                # Some modules show functions of others, and some passages say next to nothing.
                if text not in seen and len(words(text)) >= 4:
                    seen.add(text)
                    yield f"{name}#{number}", {"name": name, "module": module_name, "text": text}


def pieces(doc: str, size: int = 700) -> Iterator[str]:
    """Paragraphs, put together up to about `size` characters."""
    piece = ""
    for paragraph in re.split(r"\n\s*\n", doc):
        if piece and len(piece) + len(paragraph) > size:
            yield piece
            piece = ""
        piece = f"{piece}\n\n{paragraph}".strip("\n")
    if piece:
        yield piece


def prompt(question: str, hits: nearstone.Hits) -> str:
    """What a language model would be asked."""
    sources = "\n\n".join(f"[{hit.payload['name']}]\n{hit.payload['text'][:300]}" for hit in hits)
    return f"Answer from these sources and name them.\n\n{sources}\n\nQuestion: {question}\nAnswer:"


def search(notes: nearstone.Collection, question: str, k: int = 3) -> nearstone.Hits:
    # A few thousand passages are compared one by one in no time, and nothing is missed; leave `exact` away for more.
    return notes.search(embed(question), k=k, exact=True)


def main(folder: Path) -> None:
    path = folder / "stdlib.near"
    start = time.perf_counter()
    with warnings.catch_warnings():
        # To look at a deprecated name is a use of it.
        warnings.simplefilter("ignore", DeprecationWarning)
        found = dict(passages())
    vectors = np.stack([embed(f"{payload['name']} {payload['text']}") for payload in found.values()])
    print(f"{len(found)} passages embedded in {time.perf_counter() - start:.1f} s")

    with nearstone.open(path) as store:
        notes = store.collection_or_create("passages", DIM, metric="cosine", keys=str)
        start = time.perf_counter()
        notes.upsert(list(found), vectors, list(found.values()))
        print(f"written and durable in {time.perf_counter() - start:.2f} s: {path}\n")
        answers = []
        for question in QUESTIONS:
            start = time.perf_counter()
            hits = search(notes, question)
            took = time.perf_counter() - start
            answers.append(list(hits.keys))
            print(f"{question}   ({took * 1000:.1f} ms)")
            for hit in hits:
                line = " ".join(hit.payload["text"].split())[:80]
                print(f"  {hit.distance:.3f}  {hit.payload['name']:<34} {line}")
            print()
        print("--- a prompt ---")
        print(prompt(QUESTIONS[0], search(notes, QUESTIONS[0], k=2)))
        print("----------------\n")

    with nearstone.open(path, create=False) as store:
        notes = store.collection("passages")
        again = [list(search(notes, question).keys) for question in QUESTIONS]
        assert len(notes) == len(found) and again == answers
        print(f"opened again: {len(notes)} passages, the same answers")
        only = notes.search(embed("iterate over pairs"), k=2, filter=lambda key: key.startswith("itertools."))
        print("only in itertools:", ", ".join(hit.payload["name"] for hit in only))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch))
