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
    return trained.Member(Path(name), config, None, None, None, 0, about, lambda views: None)


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


def test_networks_of_other_training_galaxies_are_not_scored_together_on_them(tmp_path, monkeypatch):
    report = Report(tmp_path, loud=False)
    members = [member("one", {}), member("two", {}, training_galaxies=5)]
    data = [experiment.load_data(one.config, tmp_path, False, report) for one in members]

    def predict_split(config, parts, galaxies, split, weights, step):
        rows = galaxies.splits[split]
        return rows, galaxies.fractions[rows]

    monkeypatch.setattr(experiment, "predict_split", predict_split)
    observed, predicted = trained.predict_all(members, data, "test", 1)
    assert len(observed) == len(predicted[0]) == len(predicted[1]) > 0
    with pytest.raises(UserError, match="two and one have other galaxies in train"):
        trained.predict_all(members, data, "train", 1)


def test_a_network_is_known_by_what_it_was_trained_on():
    one = member("one", {"config": {"seed": 0}})
    assert one.identity == one._replace(workdir=Path("moved")).identity
    others = (one._replace(step=5), one._replace(about={"config": {"seed": 1}}))
    assert len({one.identity, *(other.identity for other in others)}) == 3
