"""Anything that can be sent is answered, or refused with a code that blames the sender."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rerankd.v1 import rerank_pb2 as pb
from rerankd.v1 import rerank_pb2_grpc
from support import RunningServer, ask
from support import raw as send

from benches.mutators import mutate

Stub = rerank_pb2_grpc.RerankServiceStub

BLAMES_THE_SENDER = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

# Any Unicode that a message can hold, control characters, unassigned planes and all; mostly short, for speed.
texts = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["", " ", "\0", "[CLS] [SEP]", "a" * 3000, "\u202e\u0301" * 20, "日本語のテキスト", "🍕" * 100]
)
numbers = st.integers(0, 600) | st.integers(0, 2**32 - 1)
enums = st.integers(-3, 8) | st.integers(-(2**31), 2**31 - 1)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


contexts = st.lists(st.builds(pb.Context, text=texts, key=texts), max_size=6)
requests = st.builds(
    pb.RerankRequest,
    query=texts,
    contexts=contexts,
    top_k=maybe(numbers),
    model=st.just("") | st.sampled_from(["mini-en", "other"]) | texts,
    score=enums,
    overflow=enums,
    return_text=st.booleans(),
    min_score=maybe(st.floats(width=32)),
    priority=enums,
    max_tokens=maybe(numbers),
    budget_ms=maybe(numbers),
)
# Requests like the above are mostly refused; these mostly are not.
good_enums = st.integers(0, 2)
good_requests = st.builds(
    pb.RerankRequest,
    query=texts.filter(bool),
    contexts=st.lists(st.builds(pb.Context, text=texts.filter(bool), key=texts), max_size=6),
    top_k=maybe(st.integers(1, 8)),
    score=good_enums,
    overflow=st.integers(0, 4),
    return_text=st.booleans(),
    min_score=maybe(st.floats(-3, 3, width=32)),
    priority=good_enums,
    max_tokens=maybe(st.integers(8, 512)),
)


def blamed(call: Callable[[], Any]) -> Any:
    """What the call answers; None where it is refused, as it may be, for what was sent."""
    try:
        return call()
    except grpc.RpcError as error:
        if error.code() not in BLAMES_THE_SENDER:
            raise
        return None


def check(request: pb.RerankRequest, response: pb.RerankResponse) -> None:
    """What holds of every answer."""
    ids, scores = [r.id for r in response.results], [r.score for r in response.results]
    assert len(set(ids)) == len(ids)
    assert all(0 <= at < len(request.contexts) for at in ids)
    assert scores == sorted(scores, reverse=True)
    if request.score != pb.SCORE_LOGIT:
        assert all(0 <= score <= 1 for score in scores)
    if request.HasField("top_k"):
        assert len(ids) <= request.top_k
    if request.HasField("min_score"):
        assert all(score >= request.min_score for score in scores)
    for result in response.results:
        context = request.contexts[result.id]
        assert result.key == context.key
        assert result.HasField("text") == request.return_text
        assert result.text == (context.text if request.return_text else "")
    assert response.model == "mini-en"
    assert response.usage.contexts + len(response.unscored) == len(request.contexts)
    if not (request.HasField("top_k") or request.HasField("min_score") or response.unscored):
        assert sorted(ids) == list(range(len(request.contexts)))
    limit = request.max_tokens if request.HasField("max_tokens") else 512
    if request.overflow != pb.OVERFLOW_CHUNK:
        assert response.usage.tokens <= limit * len(request.contexts)


@given(requests | good_requests)
@example(pb.RerankRequest())
@FUZZ
def test_any_request_is_answered_or_blamed(sync_stub: Stub, request_: pb.RerankRequest) -> None:
    response = blamed(lambda: sync_stub.Rerank(request_))
    if response is not None:
        check(request_, response)


@given(st.data())
@FUZZ
def test_a_mutated_message_is_answered_or_blamed(server: RunningServer, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from(["Rerank", "RerankStream", "RerankBatch", "ListModels"]))
    request = ask(contexts=["a context", "another"], top_k=1, min_score=0.5)
    whole: Any = {
        "Rerank": request,
        "RerankStream": pb.RerankStreamRequest(start=request),
        "RerankBatch": pb.RerankBatchRequest(request_id="id", request=request),
        "ListModels": pb.ListModelsRequest(),
    }[method]
    message = mutate(data.draw(st.randoms(use_true_random=False)), whole.SerializeToString())
    blamed(lambda: send(_channel(server), method)(message))


@given(good_requests, st.lists(contexts, max_size=3))
@FUZZ
def test_a_stream_is_its_messages_put_together(
    sync_stub: Stub, request_: pb.RerankRequest, chunks: list[list[pb.Context]]
) -> None:
    whole = pb.RerankRequest()
    whole.CopyFrom(request_)
    for chunk in chunks:
        whole.contexts.extend(chunk)
    messages = [pb.RerankStreamRequest(start=request_)]
    messages += [pb.RerankStreamRequest(more=pb.ContextChunk(contexts=chunk)) for chunk in chunks]
    expected = blamed(lambda: sync_stub.Rerank(whole))
    streamed = blamed(lambda: list(sync_stub.RerankStream(iter(messages))))
    assert (expected is None) == (streamed is None)
    if streamed is None:
        return
    *scored, last = streamed
    check(whole, last.ranking)
    assert last.ranking.results == expected.results
    assert sorted(r.id for each in scored for r in each.scored.results) == list(range(len(whole.contexts)))


@given(st.lists(st.tuples(st.sampled_from(["", "a", "b", "c", "d"]), requests | good_requests), max_size=8))
@FUZZ
def test_a_batch_answers_each_request_once(
    sync_stub: Stub, items: list[tuple[str, pb.RerankRequest]]
) -> None:
    messages = [pb.RerankBatchRequest(request_id=name, request=request) for name, request in items]
    responses = list(sync_stub.RerankBatch(iter(messages)))
    assert sorted(r.request_id for r in responses) == sorted(name for name, _ in items)
    for response in responses:
        if response.WhichOneof("outcome") == "response":
            mine = [request for name, request in items if name == response.request_id]
            assert response.request_id
            if len(mine) == 1:
                check(mine[0], response.response)
        else:
            assert response.error.code in [code.value[0] for code in BLAMES_THE_SENDER]
            assert response.error.message


_channels: dict[str, grpc.Channel] = {}


def _channel(server: RunningServer) -> grpc.Channel:
    """One channel for all examples."""
    return _channels.setdefault(server.target, grpc.insecure_channel(server.target))
