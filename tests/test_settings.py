import dataclasses
import json

import numpy as np
import pytest

from gzjax.errors import UserError
from gzjax.settings import Settings, choice, is_number, number, setting, switch


@dataclasses.dataclass(frozen=True)
class Blur(Settings):
    radius: float = number(1.0, above=0, below=5)
    angle: float = number(0.0, least=0, most=180, unit="degrees")
    times: int = number(2, least=1)
    kind: str = choice("gauss", ("gauss", "box"))
    on: bool = switch(True)
    names: tuple[str, ...] = setting((), "names", lambda value: all(map(str.isalpha, value)))
    free: object = None


def test_defaults_are_allowed_and_frozen():
    blur = Blur()
    assert dataclasses.astuple(blur) == (1.0, 0.0, 2, "gauss", True, (), None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        blur.radius = 2.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("radius", 4.999),
        ("radius", 1e-9),
        ("radius", np.float32(2)),
        ("angle", 0),
        ("angle", 180),
        ("times", 1),
        ("times", np.int64(3)),
        ("times", 10**9),
        ("kind", "box"),
        ("on", False),
        ("names", ("a", "b")),
        ("free", object),
    ],
)
def test_what_is_allowed_is_kept(name, value):
    assert getattr(Blur(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("radius", 0, "a number above 0 and below 5"),
        ("radius", 5.0, "a number above 0 and below 5"),
        ("radius", -1.0, "a number above 0 and below 5"),
        ("radius", "1", "a number above 0 and below 5"),
        ("radius", True, "a number above 0 and below 5"),
        ("radius", float("nan"), "a number above 0 and below 5"),
        ("radius", 1j, "a number above 0 and below 5"),
        ("radius", None, "a number above 0 and below 5"),
        ("angle", -0.1, "a number of degrees from 0 to 180"),
        ("angle", 180.1, "a number of degrees from 0 to 180"),
        ("angle", float("inf"), "a number of degrees from 0 to 180"),
        ("times", 0, "a whole number at least 1"),
        ("times", 2.0, "a whole number at least 1"),
        ("times", True, "a whole number at least 1"),
        ("times", float("inf"), "a whole number at least 1"),
        ("kind", "bok", "one of gauss, box"),
        ("kind", ["box"], "one of gauss, box"),
        ("kind", np.ones(2), "one of gauss, box"),
        ("on", 1, "True or False"),
        ("on", "False", "True or False"),
        ("names", 5, "names"),
        ("names", ("a", 1), "names"),
        ("names", ("1",), "names"),
    ],
)
def test_what_is_not_allowed_is_refused_in_one_line(name, value, expected):
    with pytest.raises(UserError) as raised:
        Blur(**{name: value})
    message = str(raised.value)
    assert message.startswith(f"{name}: expected {expected}, found ")
    assert "\n" not in message


def test_the_value_found_and_a_name_close_to_it_are_in_the_message():
    with pytest.raises(UserError, match=r"found 'bok'; did you mean 'box'\?$"):
        Blur(kind="bok")
    with pytest.raises(UserError, match=r"found 'median'$"):
        Blur(kind="median")
    with pytest.raises(UserError, match=r"found 0$"):
        Blur(times=0)


def test_bounds_of_every_kind_are_in_the_message():
    @dataclasses.dataclass(frozen=True)
    class Bounds(Settings):
        most: float = number(1.0, most=2.5)
        free: float = number(0.0)
        whole: int = number(3, least=1, below=10, unit="pixels")

    for name, value, expected in [
        ("most", 3, "a number at most 2.5"),
        ("free", float("inf"), "a number"),
        ("whole", 10, "a whole number of pixels at least 1 and below 10"),
    ]:
        with pytest.raises(UserError, match=rf"^{name}: expected {expected}, found {value}$"):
            Bounds(**{name: value})
    assert Bounds(most=-1e9, free=-5).free == -5


def test_settings_survive_json():
    blur = Blur(radius=2, names=["a", "b"])
    again = Blur(**json.loads(json.dumps(dataclasses.asdict(blur))))
    assert again == blur
    assert hash(again) == hash(blur)
    assert blur.names == ("a", "b")
    assert isinstance(blur.radius, float)
    assert isinstance(blur.times, int)
    assert dataclasses.replace(blur, free=[1]).free == (1,)


def test_numbers_are_finite_and_no_booleans():
    assert all(map(is_number, (0, -1.5, np.float32(2), np.int64(3), 10**30)))
    assert not any(map(is_number, (True, np.inf, -np.inf, np.nan, "1", None, 1j, (1,))))
    assert is_number(2, whole=True)
    assert not is_number(2.0, whole=True)
