"""Turns go round between kinds; slots belong to one stack at a time."""

from __future__ import annotations

import asyncio

from lamina.serve.llama_turns import Slot, Slots, Turns


def test_one_kind_is_in_at_a_time_and_waiting_kinds_go_round() -> None:
    async def run() -> list[str]:
        turns, log, inside = Turns(), [], []

        async def work(kind: str, times: int) -> None:
            for _ in range(times):
                async with turns.of(kind):
                    inside.append(kind)
                    assert set(inside) == {kind}
                    log.append(kind)
                    await asyncio.sleep(0)
                    inside.remove(kind)

        await asyncio.gather(work("a", 3), work("a", 3), work("b", 3), work("c", 2))
        return log

    log = asyncio.run(run())
    assert sorted(log) == ["a"] * 6 + ["b"] * 3 + ["c"] * 2
    assert "".join(log).startswith("aabc")
    assert "".join(log).count("aaa") == 0


def test_alone_nobody_waits() -> None:
    async def run() -> None:
        turns = Turns()
        for _ in range(3):
            async with turns.of("a"), turns.of("a"):
                pass

    asyncio.run(asyncio.wait_for(run(), 1))


def test_whoever_gives_up_waiting_holds_nobody_up() -> None:
    async def run() -> bool:
        turns = Turns()
        async with turns.of("a"):
            waiting = asyncio.create_task(_hold(turns, "b"))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with turns.of("c"):
            return True

    assert asyncio.run(asyncio.wait_for(run(), 1))


def test_giving_up_when_the_turn_has_just_come_passes_it_on() -> None:
    async def run() -> bool:
        turns = Turns()
        async with turns.of("a"):
            waiting = asyncio.create_task(_hold(turns, "b"))
            await asyncio.sleep(0)
        waiting.cancel()  # its turn has come, and it has not been told yet
        await asyncio.gather(waiting, return_exceptions=True)
        async with turns.of("c"):
            return True

    assert asyncio.run(asyncio.wait_for(run(), 1))


def test_the_slot_that_knows_most_of_the_prompt_is_taken() -> None:
    async def run() -> list[int]:
        slots, found = Slots(3), []
        stack = (("x", 1.0),)
        async with slots.take((), [1]) as first, slots.take(stack, [1]) as second:
            first.layers, first.tokens = (), [1, 2, 3]
            second.layers, second.tokens = stack, [1, 2, 3, 4]
        for layers, prompt in (((), [1, 2, 9]), (stack, [1, 2, 9]), ((("x", 0.5),), [1, 2, 3])):
            async with slots.take(layers, prompt) as slot:
                found.append(slot.index)
        return found

    assert asyncio.run(run()) == [0, 1, 2]


def test_a_cache_of_other_layers_is_shared_with_nobody() -> None:
    slot = Slot(0, (("x", 1.0),), [1, 2, 3])
    assert slot.shared((("x", 1.0),), [1, 2, 9]) == 2
    assert slot.shared((("x", 0.5),), [1, 2, 9]) == 0
    assert slot.shared((), [1, 2, 9]) == 0


def test_those_without_a_slot_wait_in_line() -> None:
    async def run() -> list[int]:
        slots, log = Slots(1), []

        async def work(name: int) -> None:
            async with slots.take((), [name]):
                log.append(name)
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(work(name)) for name in range(4)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return log

    assert asyncio.run(asyncio.wait_for(run(), 1)) == [0, 1, 3]


async def _hold(turns: Turns, kind: str) -> None:
    async with turns.of(kind):
        await asyncio.sleep(0)
