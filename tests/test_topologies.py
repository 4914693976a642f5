"""Programs for machines that are not there; no compiler for them is needed here."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from gzjax.bench import __main__ as bench
from gzjax.bench import plan, topologies
from gzjax.bench.program import Census, bytes_of, census
from gzjax.data import devices
from gzjax.errors import UserError

PROGRAM = """\
HloModule jit_train_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%fused (p0: bf16[8,4], p1: s32[2]) -> bf16[2,4] {
  %p0 = bf16[8,4]{1,0} parameter(0)
  %p1 = s32[2]{0} parameter(1)
  ROOT %picked = bf16[2,4]{1,0} gather(%p0, %p1), offset_dims={1}
}

%body (state: (f32[16])) -> (f32[16]) {
  %state = (f32[16]{0}) parameter(0)
  %part = f32[16]{0} get-tuple-element(%state), index=0
  %turned = f32[16]{0} transpose(%part), dimensions={0}
  ROOT %next = (f32[16]{0}) tuple(%turned)
}

ENTRY %main (images: bf16[8,4], rows: s32[2], kernel: bf16[3,3,1,4]) -> f32[16] {
  %images = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %rows = s32[2]{0} parameter(1)
  %kernel = bf16[3,3,1,4]{3,2,1,0} parameter(2)
  %fusion = bf16[2,4]{1,0:T(8,128)S(1)} fusion(%images, %rows), kind=kLoop, calls=%fused
  %cudnn.1 = (bf16[2,4], u8[0]) custom-call(%fusion, %kernel), custom_call_target="__cudnn$convForward"
  %other = bf16[2,4]{1,0} custom-call(%fusion), custom_call_target="Sharding"
  %convolution.2 = bf16[2,4]{1,0} convolution(%fusion, %kernel), window={size=3x3}
  %all-reduce-start.1 = (f32[16]{0}, f32[]) all-reduce-start(%convolution.2), to_apply=%add
  %all-reduce-done.1 = (f32[16]{0}, f32[]) all-reduce-done(%all-reduce-start.1)
  %copy-start = (f32[16]{0:S(1)}, f32[16]{0}, u32[]) copy-start(%part.2)
  %loop = (f32[16]{0}) while(%all-reduce-done.1), condition=%no, body=%body
  ROOT %copy.3 = f32[16]{0} copy(%loop)
}
"""  # noqa: E501


def test_a_program_is_counted():
    fusion, library, other, convolution = 16 + 64 + 8, 16 + 16 + 72, 16 + 16, 16 + 16 + 72
    reduced, ahead, turned, copied = 68 + 16, 64 + 64 + 4, 64 + 64, 64 + 64
    assert census(PROGRAM) == Census(
        moved=fusion + library + other + convolution + reduced + ahead + turned + copied,
        kernels=7,
        fusions=1,
        library=1,
        convolutions=1,
        gathers=1,
        copies=2,
        collectives=1,
        exchanged=68,
    )


@pytest.mark.parametrize(
    ("shapes", "size"),
    [
        ("f32[]", 4),
        ("pred[3]{0}", 3),
        ("(bf16[2,3]{1,0:T(8,128)(2,1)}, s8[5])", 17),
        ("f8e4m3fn[7]", 7),
        ("u4[3]", 2),
        ("c64[2,0]", 0),
    ],
)
def test_bytes_of_shapes(shapes, size):
    assert bytes_of(shapes) == size


def test_a_program_of_this_machine_is_counted():
    def function(images, rows, kernel):
        return jax.lax.conv_general_dilated(
            images[rows], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    arrays = jnp.ones((4, 8, 8, 3)), jnp.arange(2), jnp.ones((3, 3, 3, 5))
    found = census(jax.jit(function).lower(*arrays).compile().as_text())
    assert found.convolutions == 1
    assert found.gathers <= 1
    assert found.kernels >= 2
    assert found.moved >= 4 * (2 * 2 * 192 + 3 * 3 * 3 * 5 + 2 * 64 * 5)


def plan_of(world, **given):
    options = {name: [] for name in ("models", "sizes", "batches", "dtypes", "topologies")}
    config = tiny.config(world, batch_size=16)
    return bench.plan_of(
        types.SimpleNamespace(config=config, repeats=1, output="", **options | given)
    )


def test_both_steps_are_compiled_for_every_topology(world, monkeypatch):
    asked = []

    def described(name, **options):
        asked.append((name, options["platform"]))
        number = 4 if options["platform"] == "tpu" else 2
        return types.SimpleNamespace(devices=jax.devices()[:number])

    monkeypatch.setattr(topologies.topologies, "get_topology_desc", described)
    made = plan_of(world, topologies=["v5e:2x2", "h100:2"])
    # A CPU's compiler knows no option of a GPU's.
    monkeypatch.setattr(topologies, "COMPILER", {"tpu": {}, "cuda": {}})
    uneven = plan_of(world, topologies=["h100:2", "v5e:2x2"], batches=["6"])
    with pytest.raises(UserError, match="v5e:2x2 has 4 chips, which cannot share a batch of 6; ex"):
        topologies.measure_compiled(uneven)
    asked.clear()
    monkeypatch.setattr(topologies.inference, "measure_decoding", lambda _: 125.0)
    rows = topologies.measure_compiled(made)
    assert asked == [("v5e:2x2", "tpu"), ("h100:1x1x2", "cuda")]
    assert [(row["chips"], row["step"]) for row in rows] == [
        ("4 v5e:2x2", "train"),
        ("4 v5e:2x2", "predict"),
        ("2 h100:2", "train"),
        ("2 h100:2", "predict"),
    ]
    four, predicted, two, _ = rows
    assert predicted["GFLOP"] == pytest.approx(flops_of_prediction(made) / 4 / 1e9)
    assert 2 * four["GFLOP"] == pytest.approx(two["GFLOP"])
    assert four["collectives"] == two["collectives"] > 0
    assert four["of one chip's on 256"] < 1
    for row, chips, memory in ((four, 4, 819e9), (two, 2, 3352e9)):
        assert row["MB an image"] == pytest.approx(1e3 * row["GB moved"] / (16 / chips))
        assert row["limit"] == "memory"
        assert row["at best ms"] > 1e3 * row["GB moved"] * 1e9 / memory
        assert row["images/s a chip, at most"] == pytest.approx(
            16 / chips / row["at best ms"] * 1e3
        )
        assert row["cores a chip to decode"] == ""
    rate = predicted["images/s a chip, at most"]
    assert 3600 * predicted["hours for 10^9, 1 chip"] == pytest.approx(1e9 / rate)
    assert 3600 * predicted["hours for 10^9, 64 chips"] == pytest.approx(1e9 / rate / 64)
    assert predicted["cores a chip to decode"] == pytest.approx(rate / 125)


def flops_of_prediction(made):
    """Of a whole batch, not in pieces."""
    options = next(made.combinations())
    placement = devices.place(jax.devices()[:1])
    model = plan.model_of(options, made.tree, placement, folded=True)
    whole = model._replace(test_views=model.test_views._replace(piece=0))
    weights = model.network.init(jax.random.key(0))
    images = {"image": jnp.zeros((16, 16, 16, 3), jnp.uint8)}
    (flops,) = {whole.predict_step(1).lower(weights, images).cost_analysis()["flops"]}
    assert flops > 1.5 * model.predict_step(1).lower(weights, images).cost_analysis()["flops"]
    return flops


CHIP = topologies.Chip("tpu", flops=1e12, memory=1e9, link=1e8, latency=1e-3)


def test_exchanges_are_added_to_what_a_chip_does_alone():
    done = Census(*[0] * 7, collectives=3, exchanged=10**8)
    seconds = [topologies.step_seconds(CHIP, 0.5, done, chips) for chips in (1, 4, 256)]
    # On a torus 2 sqrt(n) hops; each byte is sent 2 (n - 1) / n times.
    assert seconds == pytest.approx([0.5, 0.5 + 1.5 + 3 * 4e-3, 0.5 + 2 * 255 / 256 + 3 * 32e-3])
    switched = CHIP._replace(platform="cuda")
    assert topologies.step_seconds(switched, 0, done, 8) == pytest.approx(7 / 4 + 3 * 6e-3)


def test_the_slower_of_memory_and_computing_bounds_a_step():
    lowered = jax.jit(jnp.sin).lower(np.ones(1000, np.float32))
    for flops, limit, least in ((1.0, "memory", 8000 / 1e9), (1e9, "compute", 1e9 / 1e12)):
        row = topologies.figures(lowered, CHIP, 1, 10, flops)
        assert row["limit"] == limit
        assert row["at best ms"] == pytest.approx(1e3 * least)
        assert row["images/s a chip, at most"] == pytest.approx(10 / least)


@pytest.mark.parametrize("name", ["v9:2x2", "h200", ""])
def test_an_unknown_topology(name):
    with pytest.raises(
        UserError, match=r"^--topologies: expected something like v5e:2x2 or h100:8"
    ):
        topologies.devices_of(name)


@pytest.mark.parametrize(("name", "build"), [("v5e:2x2", "tpu"), ("h100:8", "cuda12")])
def test_a_compiler_that_is_missing(monkeypatch, name, build):
    def fails(*_, **__):
        raise RuntimeError("no such library\nat all")

    monkeypatch.setattr(topologies.topologies, "get_topology_desc", fails)
    with pytest.raises(UserError, match=rf"^--topologies {name}: .*GZJAX_JAX={build}, which"):
        topologies.devices_of(name)


def test_topologies_have_to_be_named(world):
    with pytest.raises(UserError, match=r"^compile: expected --topologies"):
        topologies.measure_compiled(plan_of(world))


@pytest.mark.parametrize(
    ("platform", "method"), [("cpu", "shifted"), ("tpu", "xla"), ("gpu", "xla")]
)
def test_networks_have_the_form_that_suits_the_devices(world, monkeypatch, platform, method):
    made = plan_of(world)
    device = types.SimpleNamespace(platform=platform)
    mesh = types.SimpleNamespace(devices=np.array([device]))
    placement = types.SimpleNamespace(replicated=types.SimpleNamespace(mesh=mesh))
    taken = []
    monkeypatch.setattr(
        plan.build, "build_network", lambda *_, depthwise, **__: taken.append(depthwise)
    )
    monkeypatch.setattr(plan.build, "build_model", lambda *_: None)
    plan.model_of(next(made.combinations()), made.tree, placement)
    assert taken == [method]
