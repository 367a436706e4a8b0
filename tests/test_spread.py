"""What the scaling bench counts by, and the name server that it gives its clients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rerankd import AsyncClient
from support import PATIENCE, Serve

from benches import scaling
from benches.names import Names
from benches.process import Process
from benches.quota import may_limit, quota
from benches.spread import Spread, by_connection, evenly
from benches.traffic import Account


def spread(calls: list[int], seconds: float = 10.0) -> Spread:
    account = Account(calls=[(0.0, 0.1, True)] * sum(calls))
    return Spread(calls, seconds, account, queued=[[0.0] * len(calls), [2.0] * len(calls)])


def test_a_spread_is_the_most_to_the_least() -> None:
    found = spread([110, 100, 105])
    assert found.ratio == pytest.approx(1.1)
    assert found.rate == pytest.approx(31.5)
    assert found.queue() == [1.0, 1.0, 1.0]
    assert found.latency(99) == pytest.approx(100)


def test_what_one_more_adds_is_a_part_of_the_first() -> None:
    rounds = [[spread([100]), spread([90, 90]), spread([90, 90, 90])]] * 2
    rounds.append([spread([500]), spread([1, 1]), spread([1, 1, 1])])
    rows = scaling.replicas(rounds)
    assert [row[3:5] for row in rows] == [["1.00", ""], ["1.80", "80%"], ["2.70", "90%"]]


def test_a_row_says_where_one_has_all() -> None:
    rows = scaling.spreads([("pinned", spread([30, 0, 0])), ("round", spread([10, 11, 10]))])
    assert [row[2] for row in rows] == ["one has all", "1.10"]
    assert rows[1][1] == "11, 10, 10"


def test_a_shipped_client_is_told_of_all_servers_and_a_connection_has_one() -> None:
    servers = [Process(1), Process(1), Process(1)]
    targets = [server.target for server in servers]
    assert evenly(servers, 2) == [f"ipv4:{','.join(targets)}"] * 2
    drawn = by_connection(servers, 8)
    assert len(drawn) == 8
    assert set(drawn) <= set(targets)
    counts = sorted(drawn.count(target) for target in targets)
    assert counts[-1] - counts[0] in (3, 4)


async def test_a_client_finds_all_servers_by_their_name(serve: Serve) -> None:
    first = serve()
    port = int(first.target.rpartition(":")[2])
    second = serve(grpc=f"127.0.0.2:{port}")
    with Names("127.0.0.1", "127.0.0.2") as names:
        async with AsyncClient(names.target(port), timeout=PATIENCE) as client:
            while not all(server.reranker.engine.stats()["pairs"] for server in (first, second)):
                assert (await client.rank("capital of Peru", ["Lima."]))[0].id == 0
        assert names.asked >= 1


async def test_the_name_server_knows_no_other_name() -> None:
    with Names("127.0.0.1") as names:
        async with AsyncClient(names.target(1).replace("rerankd.test", "other.test")) as client:
            with pytest.raises(ConnectionError):
                await client.rank("capital of Peru", ["Lima."])
        assert names.asked == 0


@pytest.mark.skipif(not may_limit(), reason="this system's cgroups can't be written")
def test_a_quota_holds_a_process_and_lets_it_go() -> None:
    spin = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(spin) as process:
        try:
            with quota(f"rerankd-test-{os.getpid()}") as group:
                group.add(process.pid)
                group.limit(0.1, period=0.01)
                while not group.throttled():
                    assert process.poll() is None
                group.lift()
            assert "rerankd-test" not in Path(f"/proc/{process.pid}/cgroup").read_text()
        finally:
            process.kill()
