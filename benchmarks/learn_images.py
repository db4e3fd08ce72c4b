"""Crops of images as a context: what a linear probe and neighbours make of it.

Fashion-MNIST (a folder of its four IDX files; else scikit-learn's digits), A a random
crop of X, one small convolutional network and one budget for all objectives. SVME
embeds X and A, which are both images, by one encoder, its constraint a squared penalty,
or solved in the batch; the spectral contrastive loss and VICReg embed two crops of one
X; supervised learning embeds a crop and predicts its class. Of an encoder of crops the
average over `--views` crops is taken. Judged by accuracy on test images, of logistic
regression on standardised embeddings of all training images, and of the 20 nearest
neighbours among them; beside that, principal components and raw pixels.

    python benchmarks/learn_images.py --data FOLDER --json FILE
"""

import argparse
import functools
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

import contexture_jax as cx
from _common import Report, make_parser, parse
from _data import read_idx

MOST_SECONDS = 20 * 60.0
NUM_NEIGHBORS = 20
SVME = {
    "svme": cx.losses.SquaredPenalty(1.0),
    "svme_whitened": cx.losses.Whiten(0.1),
}
OBJECTIVES = (*SVME, "spectral_contrastive", "vicreg", "supervised")
CHUNK = 2000
SMOKE = {
    "steps": 3,
    "batch": 64,
    "channels": [8],
    "output": 8,
    "views": 2,
    "train_rows": 300,
}


class Images(NamedTuple):
    """Images of shape (n, height, width, 1) in [0, 1], and classes."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder of IDX files; else digits")
    parser.add_argument("--train-rows", type=int, default=60_000, help="at most")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=512, help="images of a step")
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--output", type=int, default=128, help="embedding width")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest, of Adam")
    parser.add_argument("--pool", type=int, default=2, help="cells a side")
    parser.add_argument("--share", type=float, default=0.75, help="side of a crop")
    parser.add_argument("--views", type=int, default=8, help="crops of an average")
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES)
    args = parse(parser, SMOKE)
    report = Report("learn_images", args)
    images = read(args.data, args.train_rows)
    rows = []
    for name in args.objectives:
        start = time.perf_counter()
        train, test = learn(args, name, images)
        rows.append(judge(name, train, test, images, time.perf_counter() - start))
    pixels, pixels_of_test = (
        x.reshape(len(x), -1) for x in (images.train, images.test)
    )
    start = time.perf_counter()
    pca = PCA(min(args.output, *pixels.shape), random_state=0).fit(pixels)
    train, test = pca.transform(pixels), pca.transform(pixels_of_test)
    seconds = time.perf_counter() - start
    rows.append(judge("principal components", train, test, images, seconds))
    rows.append(judge("raw pixels", pixels, pixels_of_test, images, 0.0))
    title = f"{len(images.train)} images, {args.steps} steps of {args.batch} images"
    report.add_case(title, rows)
    for row in rows:
        if row["name"] in OBJECTIVES:
            seconds = row["seconds_median"]
            report.add_goal("seconds of training", seconds, MOST_SECONDS, row["name"])
    report.write()


def read(folder: Path | None, most: int) -> Images:
    if folder is None:
        pixels, labels = load_digits(return_X_y=True)
        x = np.asarray(pixels, np.float32).reshape(-1, 8, 8, 1) / 16
        parts = train_test_split(x, np.asarray(labels), random_state=0)
        train, test, train_labels, test_labels = map(np.asarray, parts)
    else:
        train, test = (
            read_idx(folder / f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
            for part in ("train", "t10k")
        )
        train, test = train / np.float32(255), test / np.float32(255)
        train_labels, test_labels = (
            read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 8).astype(np.int32)
            for part in ("train", "t10k")
        )
    return Images(train[:most], train_labels[:most], test, test_labels)


def learn(
    args: argparse.Namespace, name: str, images: Images
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the training and of the test images."""
    side = round(args.share * images.train.shape[1])
    crop = cx.contexts.crop(side)
    num_classes = int(images.train_labels.max()) + 1
    config = cx.models.ConvNetConfig(
        in_channels=1,
        channels=tuple(args.channels),
        out_features=args.output,
        pool=args.pool,
    )
    network, apply = cx.models.functional(
        cx.models.ConvNet(config, rngs=nnx.Rngs(args.seed))
    )

    def encode(params: Any, batch: Any, key: Any) -> Any:
        image, label = batch
        first, second = jax.random.split(key)
        a = crop.sample(first, image)
        if name in SVME:
            return apply(params["network"], image), apply(params["network"], a)
        psi = apply(params["network"], a)
        if name == "supervised":
            return psi @ params["head"], label
        return psi, apply(params["network"], crop.sample(second, image))

    params: dict[str, Any] = {"network": network}
    if name == "supervised":
        params["head"] = jnp.zeros((args.output, num_classes))
    losses = {
        **{
            which: functools.partial(cx.losses.svme, constraint=constraint)
            for which, constraint in SVME.items()
        },
        "spectral_contrastive": functools.partial(
            cx.losses.spectral_contrastive, unbiased=True
        ),
        "vicreg": cx.losses.vicreg,
        "supervised": cx.losses.cross_entropy,
    }
    optimizer = optax.adam(cx.training.warmup_cosine(args.rate, args.steps))
    step = cx.training.make_step(encode, cx.training.from_loss(losses[name]), optimizer)
    trained = cx.training.fit(
        step,
        cx.training.init_state(params, optimizer),
        cx.training.batches(
            (images.train, images.train_labels), args.batch, seed=args.seed
        ),
        num_steps=args.steps,
        key=jax.random.key(args.seed),
        logging=cx.training.Logging(progress=False),
    )
    print(name, trained.status, trained.history["loss"][-1], file=sys.stderr)
    params = trained.state.params

    @jax.jit
    def embed(x: Any, key: Any) -> Any:
        if name in SVME:
            return apply(params["network"], x)
        keys = jax.random.split(key, args.views)
        # Φ = T Ψ by draws of A.
        return jax.lax.map(
            lambda k: apply(params["network"], crop.sample(k, x)), keys
        ).mean(0)

    def whole(x: np.ndarray) -> np.ndarray:
        parts = range(0, len(x), CHUNK)
        key = jax.random.key(args.seed + 1)
        return np.concatenate([embed(x[i : i + CHUNK], key) for i in parts])

    return whole(images.train), whole(images.test)


def judge(
    name: str, train: np.ndarray, test: np.ndarray, images: Images, seconds: float
) -> dict[str, Any]:
    """The accuracy of a linear probe and of neighbours."""
    scaler = StandardScaler().fit(train)
    train, test = (np.asarray(scaler.transform(z)) for z in (train, test))
    probe = LogisticRegression(max_iter=1000, tol=1e-3).fit(train, images.train_labels)
    neighbors = KNeighborsClassifier(NUM_NEIGHBORS, algorithm="brute")
    neighbors.fit(train, images.train_labels)
    row = {
        "name": name,
        "kind": "ours" if name in OBJECTIVES else "peer",
        "settings": f"{train.shape[1]} columns",
        "first_call_seconds": seconds,
        "seconds": [seconds],
        "seconds_median": seconds,
        "peak_megabytes": None,
        "accuracy": {
            "linear probe": float(probe.score(test, images.test_labels)),
            "20 neighbours": float(neighbors.score(test, images.test_labels)),
        },
    }
    print(name, row["accuracy"], seconds, file=sys.stderr)
    return row


if __name__ == "__main__":
    main()
