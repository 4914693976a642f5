"""Small sets of galaxies in the layouts in which they are published."""

import io

import loopback
import numpy as np
import pandas as pd
from PIL import Image

from gzjax import tree as trees
from gzjax.at_hand import registry
from gzjax.at_hand.registry import Published

GALAXIES = 40


def image(number: int, kind: str = "jpeg") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (24, 24, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(stream := io.BytesIO(), kind)
    return stream.getvalue()


def counts(name: str, columns, galaxies: int = GALAXIES) -> pd.DataFrame:
    """Votes of forty volunteers, who walk a tree."""
    tree, generator = trees.load(name), np.random.default_rng(1)
    votes = np.zeros((galaxies, tree.size), int)
    for _ in tree.questions:  # until those are asked whose gates come later
        for question in tree.questions:
            gates = votes[:, list(question.gates)].sum(1) if question.gates else [40] * galaxies
            chances = np.ones(len(question.answers)) / len(question.answers)
            for row, asked in enumerate(gates):
                if votes[row, question.columns].sum() != asked:
                    votes[row, question.columns] = generator.multinomial(asked, chances)
    kept = [n for n, column in enumerate(columns) if column]
    return pd.DataFrame(votes[:, kept], columns=[columns[n] for n in kept])


def parquet(table: pd.DataFrame) -> bytes:
    table.to_parquet(stream := io.BytesIO(), index=False)
    return stream.getvalue()


def serve_gz2(server, monkeypatch) -> None:
    ids = [str(587722981736120347 + 11 * n) for n in range(GALAXIES + 2)]
    assets = [str(n + 1) for n in range(GALAXIES)]
    mapping = pd.DataFrame({"objid": ids[:GALAXIES], "sample": "original", "asset_id": assets})
    again = {"objid": [ids[0]], "sample": ["stripe82_coadd_1"], "asset_id": ["900"]}
    mapping = pd.concat([pd.DataFrame(again), mapping])
    images = {f"images/{name}.jpg": image(int(name)) for name in [*assets, "900"]}
    made = {"images_gz2.zip": loopback.zipped(images), "README.txt": b"not asked for"}
    made["gz2_filename_mapping.csv"] = mapping.to_csv(index=False).encode()
    loopback.record(server, "3565489", made)
    names = [f"{name}_count" for name in trees.load("gz2").families["hart"]]
    votes = counts("gz2", names, len(ids))
    votes[[name.replace("_count", "_debiased") for name in names]] = 0.5
    votes.insert(0, "dr7objid", ids)
    votes.to_csv(stream := io.BytesIO(), index=False, compression="gzip")
    server.files["/gz2_hart16.csv.gz"] = stream.getvalue()
    urls = {"gz2_hart16.csv.gz": f"{server.url}/gz2_hart16.csv.gz"}
    gz2 = registry.SETS["gz2"]
    monkeypatch.setitem(registry.SETS, "gz2", Published(**{**vars(gz2), "urls": urls}))
