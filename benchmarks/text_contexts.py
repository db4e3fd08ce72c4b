"""What does a pretrained encoder of text know, and what do words that stand together?

Verses of a text, one a line: a pretrained encoder (the package wordllama, whose weights
are in its wheel) and functions of counts are held against contexts of the same verses:
the next verse, the same passage, shared words, and the encoder as a teacher. Then words
that stand near each other as a context: its singular functions as word vectors beside
two that are usual, judged by nearest neighbours, which are printed, by what they share
with the encoder's own vectors of these words, and by whether neighbours end alike.

    python benchmarks/text_contexts.py --text verses.txt.gz --json FILE

Without --text the chapters of the Python reference that come with the interpreter are
taken, a sentence a line: a text that is always there, and of another kind.
"""

import collections
import gzip
import pydoc_data.topics
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

import contexture_jax as cx
from _common import Report, make_parser, optional, parse, untimed

SMOKE = {"text": None, "passages": 8, "words": 60, "rank": 8, "permutations": 9}
PASSAGE = 26  # verses, about as many as a chapter has; the text marks none
WINDOW = 5  # words to either side
SHOWN = ("king", "bread", "water", "sword", "daughter", "spake", "seven", "heart")
SHOWN_OTHERWISE = ("function", "class", "list", "string", "returns", "integer", "two")
ENDINGS = ("eth", "est", "ing", "ed", "ly", "s")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--text", type=Path, help="a verse a line, .gz or not")
    parser.add_argument(
        "--passages", type=int, default=120, help="spread over the text"
    )
    parser.add_argument(
        "--words", type=int, default=2000, help="the most frequent ones"
    )
    parser.add_argument("--rank", type=int, default=100, help="of word vectors")
    parser.add_argument("--permutations", type=int, default=39)
    args = parse(parser, SMOKE)
    report = Report("text_contexts", args)
    lines = read(args.text)
    encode = encoder()
    verses(args, report, lines, encode)
    words(args, report, lines, encode)
    report.write()


def read(path: Path | None) -> list[list[str]]:
    """The words of each line, in lower case."""
    if path is None:
        whole = "\n".join(pydoc_data.topics.topics.values())
        lines = re.split(r"(?<=[.:?])\s+", whole.replace("\n", " "))
    else:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
        lines = raw.decode("utf-8").splitlines()
    found = [re.findall(r"[a-z]+", line.lower()) for line in lines]
    return [line for line in found if len(line) > 2]


def encoder() -> Callable[[list[str]], Any] | None:
    """Texts to vectors, by weights that lie in the package; None without it."""
    wordllama = optional("wordllama")
    if wordllama is None:
        return None
    # It seeks its tokenizer in a folder of another name, but in a cache as it lies.
    folder = Path(wordllama.__file__).parent
    model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
    return lambda texts: np.asarray(model.embed(texts), np.float32)


def verses(args: Any, report: Report, lines: list[list[str]], encode: Any) -> None:
    """Representations of verses against contexts of verses."""
    starts = np.linspace(0, len(lines) - PASSAGE, args.passages).astype(int)
    rows = [line for start in starts for line in lines[start : start + PASSAGE]]
    n = len(rows)
    counts = count_words(rows, args.words)
    context_of = {
        "next verse": cx.contexts.graph(next_to(n)),
        "same passage": cx.contexts.labels(
            np.repeat(np.arange(args.passages), PASSAGE)
        ),
        "shared words": cx.contexts.joint(counts),
    }
    embeddings: dict[str, Any] = {}
    if encode is not None:
        embeddings["encoder"] = encode([" ".join(line) for line in rows])
        context_of["encoder as teacher"] = cx.contexts.teacher(embeddings["encoder"])
    key = jax.random.key(args.seed)
    rng = np.random.default_rng(args.seed)
    width = embeddings["encoder"].shape[1] if embeddings else 4 * args.rank
    width = min(width, n // 4)
    solved: dict[str, Any] = {}
    for name, context in context_of.items():
        start = time.perf_counter()
        op = cx.association_operator(context)
        rank = min(width, cx.evaluation.num_singular_values(op) - 1)
        solved[name] = op, *cx.svd(op, rank, key=key), time.perf_counter() - start
    shared = solved["shared words"][1]
    embeddings["functions of shared words"] = np.asarray(shared.left)
    embeddings["counts, principal components"] = principal(counts, width)
    embeddings["noise"] = rng.normal(size=(n, width)).astype(np.float32)
    for name, (op, result, info, seconds) in solved.items():
        table = [
            judged(args, embedding, op, result, which, seconds)
            for which, embedding in embeddings.items()
        ]
        s = np.asarray(result.singular_values)
        report.add_case(
            f"{n} verses: {name}",
            table,
            singular_values=[round(float(v), 4) for v in s[:10]],
            status=str(info.status),
        )


def judged(args, embedding, op, result, name, seconds) -> dict[str, Any]:
    start = time.perf_counter()
    fit = cx.evaluation.context_fit(
        embedding.astype(np.float32),
        op,
        result.singular_values,
        key=jax.random.key(args.seed + 1),
        num_permutations=args.permutations,
    )
    share, rho = fit
    accuracy = {
        "ratio trace": share.value,
        "by chance": share.null.estimate,
        "p": share.p_value,
        "above chance": share.adjusted,
        "compatibility": rho.value,
        "its chance": rho.null.estimate,
    }
    settings = f"{embedding.shape[1]} columns"
    return row(name, settings, time.perf_counter() - start, seconds, accuracy)


def words(args: Any, report: Report, lines: list[list[str]], encode: Any) -> None:
    """Vectors of words from what stands near them."""
    frequent = collections.Counter(word for line in lines for word in line)
    vocabulary = [word for word, _ in frequent.most_common(args.words)]
    joint = near_words(lines, vocabulary)
    vectors: dict[str, tuple[Any, float]] = {}
    for name, make in (
        ("singular functions", functions),
        ("PPMI, SVD", ppmi),
        ("M* = 2 (P_ij − P_i P_j) / (P_ij + P_i P_j)", published),
    ):
        start = time.perf_counter()
        found = make(joint, args.rank, args.seed)
        vectors[name] = found, time.perf_counter() - start
    if encode is not None:
        start = time.perf_counter()
        vectors["encoder"] = encode(vocabulary), time.perf_counter() - start
    key = jax.random.key(args.seed)
    ends = [next((e for e in ENDINGS if w.endswith(e)), "") for w in vocabulary]
    some = {"num_permutations": args.permutations, "key": key}
    table, neighbours = [], {}
    # By directions alone, those of the encoder too.
    unit = {name: of_length_1(x) for name, (x, _) in vectors.items()}
    for name, x in unit.items():
        seconds = vectors[name][1]
        purity = cx.evaluation.neighbor_purity(x, ends, **some)
        accuracy = {"ends alike": purity.value, "by chance": purity.null.estimate}
        if encode is not None:
            for measure in ("mutual_knn", "cca"):
                agreed = cx.evaluation.compare(x, unit["encoder"], measure, **some)
                accuracy |= {
                    f"{measure} with the encoder": agreed.value,
                    f"{measure} by chance": agreed.null.estimate,
                }
        table.append(row(name, f"{x.shape[1]} columns", seconds, seconds, accuracy))
        shown = [w for w in (*SHOWN, *SHOWN_OTHERWISE) if w in vocabulary][:8]
        neighbours[name] = {w: nearest(x, vocabulary, w) for w in shown}
        for word, near in neighbours[name].items():
            print(f"{name}: {word}: {', '.join(near)}", file=sys.stderr)
    title = f"{len(vocabulary)} words, {WINDOW} to either side"
    report.add_case(title, table, neighbours=neighbours)


def of_length_1(x: Any) -> Any:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def functions(joint: Any, rank: int, seed: int) -> Any:
    """s_i μ_i of the context: the word that stands near."""
    # Counts, which float32 holds.
    op = cx.association_operator(cx.contexts.graph(joint.astype(np.float32)))
    rank = min(rank, len(joint) - 1)
    result, _ = cx.svd(op, rank, key=jax.random.key(seed))
    return np.asarray(result.left * result.singular_values[None, :])


def ppmi(joint: Any, rank: int, seed: int) -> Any:
    """Levy and Goldberg 2014: max(log P_ij / (P_i P_j), 0), U √S."""
    p, product = laws(joint)
    ratio = np.divide(p, product, out=np.ones_like(p), where=p > 0)
    return leading(np.where(p > 0, np.maximum(np.log(ratio), 0), 0), rank, seed)


def published(joint: Any, rank: int, seed: int) -> Any:
    """M* = 2 (P_ij − P_i P_j) / (P_ij + P_i P_j), U √S."""
    p, product = laws(joint)
    return leading(2 * (p - product) / (p + product), rank, seed)


def leading(matrix: Any, rank: int, seed: int) -> Any:
    found, _ = cx.solvers.truncated_svd(
        matrix.astype(np.float32), min(rank, len(matrix)), key=jax.random.key(seed)
    )
    return np.asarray(found.left) * np.sqrt(np.asarray(found.singular_values))


def laws(joint: Any) -> tuple[Any, Any]:
    p = joint / joint.sum()
    return p, p.sum(axis=1)[:, None] * p.sum(axis=0)[None, :]


def near_words(lines: list[list[str]], vocabulary: list[str]) -> Any:
    """How often each stands near each: symmetric, (words, words)."""
    number = {word: i for i, word in enumerate(vocabulary)}
    joint = np.zeros((len(vocabulary),) * 2, np.float64)
    for line in lines:
        codes = np.array([number.get(word, -1) for word in line])
        for apart in range(1, min(WINDOW, len(codes) - 1) + 1):
            one, other = codes[:-apart], codes[apart:]
            there = (one >= 0) & (other >= 0)
            np.add.at(joint, (one[there], other[there]), 1)
    return joint + joint.T


def count_words(rows: list[list[str]], most: int) -> Any:
    """Words of each row, but for the hundred most frequent, (rows, words)."""
    frequent = collections.Counter(word for row in rows for word in row)
    skipped = min(100, len(frequent) // 4)
    kept = [word for word, _ in frequent.most_common(most + skipped)[skipped:]]
    number = {word: i for i, word in enumerate(kept)}
    counts = np.zeros((len(rows), len(kept)), np.float32)
    for i, one in enumerate(rows):
        for word in one:
            if word in number:
                counts[i, number[word]] += 1
    return counts


def principal(counts: Any, width: int) -> Any:
    centred = np.log1p(counts) - np.log1p(counts).mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    return (u * s)[:, :width]


def next_to(n: int) -> Any:
    """Verses one after the other within a passage."""
    first = np.arange(n - 1)
    first = first[(first + 1) % PASSAGE != 0]
    weights = np.zeros((n, n), np.float32)
    weights[first, first + 1] = weights[first + 1, first] = 1
    return weights


def nearest(x: Any, vocabulary: list[str], word: str) -> list[str]:
    cosines = x @ x[vocabulary.index(word)]
    return [vocabulary[i] for i in np.argsort(-cosines)[1:6]]


def row(name, settings, seconds, first, accuracy) -> dict[str, Any]:
    told = {what: float(value) for what, value in accuracy.items()}
    return untimed(name, told, settings=settings, seconds=seconds, first=first)


if __name__ == "__main__":
    main()
