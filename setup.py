"""What pyproject.toml cannot say: the folder configs/ is installed as gzjax/configs, and the extra
`test` is the list that launch/test installs.
"""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["gzjax*"]), "gzjax.configs"],
    package_dir={"gzjax.configs": "configs"},
    extras_require={
        **{kind: [f"jax[{kind}]"] for kind in ("cuda12", "cuda13", "tpu")},
        "fits": ["astropy>=7,<9"],
        "s3": ["s3fs"],
        "gcs": ["gcsfs"],
        "ray": ["ray>=2.40,<3"],
        "onnx": ["jax2onnx>=0.17,<1", "onnxruntime>=1.24,<2"],
        "index": ["usearch>=2.16,<3"],
        "umap": ["umap-learn>=0.5.7,<1"],
        "mlflow": ["mlflow-skinny>=3,<4"],
        "wandb": ["wandb>=0.18,<1"],
        "data": Path("launch/requirements-data.txt").read_text(encoding="utf-8").splitlines(),
        "test": Path("tests/requirements.txt").read_text(encoding="utf-8").splitlines(),
    },
)
