"""Limits from held-out prompts, routes that respect them, and routers that come back from disk as they went."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamina.errors import StackError
from lamina.refs import Digest
from lamina.route.classifier import Points, fit
from lamina.route.keep import Decision, read_decision, read_router, tensor_bytes, write_decision, write_router
from lamina.route.router import KEPT_SHARE, MOST_WRONG, Router, RouterRecord, SkillRoute, set_limits
from lamina.stack.store import Store

DIGEST = f"sha256:{'0' * 64}"


def draw(seed: int, apart: float) -> tuple[Points, list[int], Points, list[int]]:
    random = np.random.default_rng(seed)
    means = random.normal(size=(3, 8)) * apart
    owners = [place % 3 for place in range(240)]
    points = means[owners] + random.normal(size=(240, 8))
    return points[:120], owners[:120], points[120:], owners[120:]


def make_router(seed: int = 1, apart: float = 2.0) -> tuple[Router, Points, list[int]]:
    points, owners, held, held_owners = draw(seed, apart)
    classifier = fit(points, owners, 3)
    least, reach = set_limits(classifier, held, held_owners)
    record = RouterRecord(
        base=DIGEST,
        stack=DIGEST,
        weights=str(Digest.of_bytes(tensor_bytes(classifier))),
        skills=tuple(SkillRoute(name=name, choice="own", layers=(DIGEST,)) for name in "abc"),
        precision=classifier.precision,
        least=least,
        reach=reach,
    )
    return Router(record, classifier), held, held_owners


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 3.0))
def test_few_heldout_prompts_go_to_the_wrong_skill(seed: int, apart: float) -> None:
    router, held, owners = make_router(seed, apart)
    names = "abc"
    routes = router.routes(held)
    wrong = sum(
        route.skill is not None and route.skill.name != names[own] for route, own in zip(routes, owners, strict=True)
    )
    assert wrong <= MOST_WRONG * len(held)
    assert router.record.least >= 0.5


def test_far_apart_all_but_the_farthest_are_routed() -> None:
    router, held, _ = make_router(apart=6.0)
    routed = [route for route in router.routes(held) if route.skill is not None]
    assert len(routed) == pytest.approx(KEPT_SHARE * len(held), abs=2)
    (stranger,) = router.routes(np.full((1, 8), 100.0))
    assert stranger.skill is None
    assert stranger.squared_distance > router.record.reach


def test_what_cannot_be_told_apart_goes_to_the_sum() -> None:
    router, held, _ = make_router(apart=0.0)
    assert sum(route.skill is not None for route in router.routes(held)) < len(held) / 10


def test_a_router_comes_back_with_the_same_bits(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    router, held, _ = make_router()
    digest = write_router(store, router)
    found = read_router(store, digest)
    assert found.record == router.record
    assert tensor_bytes(found.classifier) == tensor_bytes(router.classifier)
    assert [route.probability for route in found.routes(held)] == [route.probability for route in router.routes(held)]
    assert write_router(store, found) == digest


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_a_damaged_router_is_refused(tmp_path: Path, ending: str) -> None:
    store = Store.create(tmp_path)
    digest = write_router(store, make_router()[0])
    (file,) = (tmp_path / ".lamina" / "routers").glob(f"*.{ending}")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StackError, match=f"router {digest[7:19]} is missing or damaged"):
        read_router(store, digest)


def test_a_decision_is_kept_for_each_branch(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    write_router(store, make_router()[0])
    decision = Decision(router=DIGEST, enabled=True, helps=True, verdict="use it")
    write_decision(store, "main", decision)
    assert read_decision(store, "main") == decision
    assert read_decision(store, "other") is None
    (tmp_path / ".lamina" / "routers" / "branches" / "main").write_text("{}")
    with pytest.raises(StackError, match="main: damaged"):
        read_decision(store, "main")
