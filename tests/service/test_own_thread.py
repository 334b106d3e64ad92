"""Calls that may block for long."""

import asyncio
import threading

import pytest

from moleflow_pl.service.own_thread import OwnThread


def test_a_result_or_an_error_comes_back() -> None:
    thread = OwnThread("camera")
    assert asyncio.run(thread.call(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(thread.call(divmod, 7, 0))


def test_calls_of_a_part_come_one_after_another_also_after_a_cancellation() -> None:
    thread, began, go_on, order = OwnThread("camera"), threading.Event(), threading.Event(), []

    def read() -> None:
        began.set()
        go_on.wait(60)
        order.append("read")

    async def cancelled_and_released() -> None:
        reading = asyncio.create_task(thread.call(read))
        await asyncio.to_thread(began.wait, 60)
        reading.cancel()
        releasing = asyncio.create_task(thread.call(order.append, "release"))
        await asyncio.sleep(0.01)
        go_on.set()
        await releasing

    asyncio.run(cancelled_and_released())
    assert order == ["read", "release"]


def test_parts_that_hang_leave_the_threads_of_all_others_free() -> None:
    hanging = threading.Event()

    async def ask_beside() -> int:
        hung = [asyncio.create_task(OwnThread(str(i)).call(hanging.wait, 60)) for i in range(50)]
        await asyncio.sleep(0)
        answer = await asyncio.to_thread(lambda: 1)
        assert not any(one.done() for one in hung)
        hanging.set()
        await asyncio.gather(*hung)
        return answer

    assert asyncio.run(ask_beside()) == 1
