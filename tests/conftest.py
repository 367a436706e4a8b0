"""What the tests share: the embedded model, and a real server. There are no mocks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from rerankd.reranker import Reranker
from rerankd.settings import Settings
from rerankd.v1 import rerank_pb2_grpc
from support import LOCAL, RunningServer, Serve, Stub


@pytest.fixture(scope="session")
def reranker() -> Iterator[Reranker]:
    with Reranker("mini-en") as reranker:
        yield reranker


@pytest.fixture
def own_reranker() -> Iterator[Reranker]:
    """For tests that use the reranker up, or count what it does; one thread."""
    with Reranker("mini-en", threads=1) as reranker:
        yield reranker


@pytest.fixture(scope="session")
def server() -> Iterator[RunningServer]:
    """One for all tests that leave it as they found it."""
    server = RunningServer(Settings(**LOCAL))
    yield server
    server.stop()


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts servers with settings of the test's own, and stops them."""
    running: list[RunningServer] = []

    def start(**settings: Any) -> RunningServer:
        running.append(RunningServer(Settings(**{**LOCAL, **settings})))
        return running[-1]

    yield start
    for each in running:
        each.stop()


@pytest.fixture(scope="session")
def sync_stub(server: RunningServer) -> Iterator[rerank_pb2_grpc.RerankServiceStub]:
    """The service, over a channel that needs no loop."""
    with grpc.insecure_channel(server.target) as channel:
        yield rerank_pb2_grpc.RerankServiceStub(channel)


@pytest.fixture
async def stub(server: RunningServer) -> AsyncIterator[Stub]:
    """The service, over a channel on the test's loop."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        yield rerank_pb2_grpc.RerankServiceStub(channel)
