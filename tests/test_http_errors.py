"""Errors in each dialect: the status, the shape, what is told and what is not."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from google.rpc import code_pb2
from rerankd import errors
from rerankd.http_errors import RefusedError, refusal, unrouted
from rerankd.http_shapes import CloudflareError, Dialect, DocumentsError, TextsError

SHAPES: dict[Dialect, Any] = {
    Dialect.DOCUMENTS: DocumentsError,
    Dialect.TEXTS: TextsError,
    Dialect.CONTEXTS: CloudflareError,
    Dialect.CLOUDFLARE: CloudflareError,
}
# Documents', texts', and Cloudflare's status and number.
CASES: list[tuple[Exception, int, int, int, int]] = [
    (errors.InputError("query", "must not be empty"), 400, 422, 400, 5006),
    (errors.UnknownModelError("no such model"), 404, 404, 400, 5007),
    (errors.AuthError("no token"), 401, 401, 401, 10000),
    (errors.OverloadedError("full", 1500), 429, 429, 429, 3040),
    (errors.DeadlineError("too late"), 504, 504, 408, 3007),
    (RefusedError(413, "too large"), 413, 413, 413, 3006),
    (RefusedError(415, "no JSON"), 415, 415, 415, 5006),
    (KeyError("secret"), 500, 500, 500, 3043),
]


@pytest.mark.parametrize(("error", "documents", "texts", "cloudflare", "number"), CASES)
def test_statuses_and_shapes(
    error: Exception, documents: int, texts: int, cloudflare: int, number: int
) -> None:
    statuses = dict(zip(Dialect, (documents, texts, cloudflare, cloudflare), strict=True))
    for dialect, status in statuses.items():
        told = refusal(error, "a test", dialect)
        assert told.status == status
        SHAPES[dialect].model_validate(told.body)
        if SHAPES[dialect] is CloudflareError:
            assert told.body["errors"][0]["code"] == number
            assert (told.body["result"], told.body["success"], told.body["messages"]) == ({}, False, [])


def test_documents_errors_have_the_message_wherever_a_client_looks() -> None:
    body = refusal(errors.InputError("query", "must not be empty"), "", Dialect.DOCUMENTS).body
    assert body["message"] == body["detail"] == body["error"]["message"] == "query: must not be empty"
    assert (body["error"]["param"], body["error"]["code"]) == ("query", 400)
    assert body["error"]["type"] == "invalid_request_error"


def test_cloudflare_says_whose_fault_it_is() -> None:
    body = refusal(errors.InputError("", "required properties"), "", Dialect.CLOUDFLARE).body
    assert body["errors"] == [{"message": "AiError: Bad input: Error: required properties", "code": 5006}]


@pytest.mark.parametrize("dialect", Dialect)
def test_who_is_full_says_when_to_come_back_and_who_leaves_is_not_full(dialect: Dialect) -> None:
    full = refusal(errors.OverloadedError("full", 1500), "", dialect)
    assert (full.status, full.code) == (429, code_pb2.UNAVAILABLE)
    assert (full.headers["retry-after"], full.headers["retry-after-ms"]) == ("2", "1500")
    leaving = refusal(errors.OverloadedError("draining", 10), "", dialect, leaving=True)
    assert (leaving.status, leaving.headers["retry-after"]) == (503, "1")


def test_who_needs_a_token_is_told_of_what_kind() -> None:
    told = refusal(errors.AuthError("no token"), "", Dialect.DOCUMENTS)
    assert told.headers == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize("dialect", Dialect)
def test_a_fault_of_ours_keeps_its_text(dialect: Dialect, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        told = refusal(KeyError("secret"), "POST documents", dialect)
    assert "secret" not in str(told.body)
    assert "correlation id" in str(told.body)
    assert "secret" in caplog.text or caplog.records[0].exc_info is not None


def test_what_there_is_no_route_for() -> None:
    assert unrouted(404, Dialect.CLOUDFLARE)["errors"][0]["code"] == 7000
    assert unrouted(405, Dialect.CLOUDFLARE)["errors"][0]["code"] == 7001
    assert unrouted(404, Dialect.DOCUMENTS)["error"]["code"] == 404
