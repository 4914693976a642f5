from pathlib import Path

import pytest

from gzjax import config as configs
from gzjax import experiment, trained
from gzjax.errors import UserError
from gzjax.report import Report


def member(name: str, about: dict, **options) -> trained.Member:
    """A network as far as its galaxies go."""
    config = configs.default()
    config.data.update(kind="sky", galaxies=40, canvas=16, **options)
    return trained.Member(Path(name), config, None, None, None, 0, about)


def test_networks_that_keep_other_galaxies_apart_are_not_mixed(tmp_path):
    report = Report(tmp_path, loud=False)
    one = member("one", {})
    data = experiment.load_data(one.config, tmp_path, False, report)
    about = {"data": data.fingerprint}
    same = [member("one", about), member("two", about)]
    assert len(trained.load_same_data(same, tmp_path, False, report)) == 2
    other = [member("one", about), member("two", about, split_seed=1)]
    with pytest.raises(UserError, match="two and one keep other galaxies apart for validation"):
        trained.load_same_data(other, tmp_path, False, report)
