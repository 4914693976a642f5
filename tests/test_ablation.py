import json

import numpy as np
import pytest

from gzjax import ablation, report
from gzjax.errors import UserError


def finish(workdir, validation, test, views=(1, 16)):
    """What a finished run leaves behind, as far as the report reads it."""
    workdir.mkdir(parents=True)
    for split, rmse in (("validation", validation), ("test", test)):
        for number in views:
            result = {
                "split": split,
                "views": number,
                "rmse": rmse - 0.001 * (number > 1),
                "raw_rmse": rmse + 0.002,
                "baseline_rmse": 0.16,
                "galaxies": 300,
                "training_galaxies": 4000,
                "data": "synthetic sky",
            }
            name = f"{report.result_name(result)}.json"
            assert name == ablation.result_file(split, number)
            (workdir / name).write_text(json.dumps(result))


def test_the_power_law_is_found():
    sizes = [500, 1000, 2000, 4000]
    a, b = ablation.fit_power_law(sizes, [0.3 * n**-0.12 for n in sizes])
    assert a == pytest.approx(0.3)
    assert b == pytest.approx(0.12)


def test_the_page_says_what_was_found(tmp_path):
    workdirs = {}
    for variant in ablation.VARIANTS:
        worse = 0.0 if variant.name == "recipe" else 0.01
        workdirs[variant.name] = [tmp_path / f"{variant.name}_{seed}" for seed in range(2)]
        for seed, workdir in enumerate(workdirs[variant.name]):
            finish(workdir, 0.100 + 0.002 * seed + worse, 0.09 + worse)
    for size in ablation.SIZES:
        workdirs[str(size)] = [tmp_path / f"{size}_0"]
        finish(workdirs[str(size)][0], 0.1, 0.089 * (size / 4000) ** -0.1)
    page = ablation.write_report(workdirs, "Command: `x`")
    assert "| the recipe itself | recipe | 0.1010 ± 0.0014 |  | 0.1000 ± 0.0014 |" in page
    # Paired by seed, the difference has no scatter.
    assert "| tree head | relu | 0.1110 ± 0.0014 | +0.0100 ± 0.0000 |" in page
    assert "| weights | as they are after the last step | 0.1030 ± 0.0014 | +0.0020" in page
    assert "synthetic sky" in page
    assert f"{0.088 * (49262 / 4000) ** -0.1:.3f}"[:4] in page
    assert "predicting the training mean scores 0.1600" in page


def test_what_is_missing_is_a_dash_and_no_recipe_an_error(tmp_path):
    assert ablation.shown(np.array([])) == "-"
    assert ablation.shown(np.array([0.1])) == "0.1000"
    with pytest.raises(UserError, match="not there yet"):
        ablation.trained_on(tmp_path)
