"""Damage to members of an .npz that its checksums do not tell: it is written anew."""

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tests.mutations import mutated

# What JSON may hold in the place of anything.
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 7, 2**40, 1e300, -0.5, "", "text", [], [[]], {}),
    *({"kind": "table"}, {"class": "Rbf"}, {"is": {}}, [1, 2, 3], "float99", "O"),
)


def members_of(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def rewritten(
    content: bytes, count: int, seed: int, words: Sequence[bytes] = ()
) -> Iterator[bytes]:
    """`count` archives, with members that are damaged, gone or in another's place.

    Args:
        content: the archive as it should be.
        count: how many.
        seed: of the damage.
        words: as in `mutated`.
    """
    rng = np.random.default_rng(seed)
    whole = members_of(content)
    for _ in range(count):
        members = dict(whole)
        for _ in range(int(rng.integers(1, 3))):
            names = list(members)
            if not names:
                break
            name, other = (names[int(i)] for i in rng.integers(len(names), size=2))
            match rng.integers(5):
                case 0:
                    del members[name]
                case 1:
                    members[name] = members[other]
                case 2:
                    members[name.replace(".npy", "0.npy")] = members.pop(name)
                case _:
                    members[name] = mutated(members[name], rng, words)
        method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)[int(rng.integers(2))]
        yield archive_of(members, method)


def odd_json(value: Any, rng: np.random.Generator) -> Any:
    """JSON with something in it that it should not hold, or without something."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        names = list(value)
        name = names[int(rng.integers(len(names)))]
        if rng.random() < 0.15:
            return {n: v for n, v in value.items() if n != name}
        return {**value, name: odd_json(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = int(rng.integers(len(value)))
        return [odd_json(v, rng) if i == place else v for i, v in enumerate(value)]
    return ODD[int(rng.integers(len(ODD)))]


def text_of(value: Any) -> np.ndarray:
    """As `save_state` writes JSON."""
    return np.array(json.dumps(value))
