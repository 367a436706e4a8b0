// TypeScript and nothing but fetch: each API's body, and the streamed answer.

import assert from "node:assert/strict";
import { test } from "node:test";
import { asObjects, contexts, query, ranking, url } from "./live.ts";

interface Scored {
  index?: number;
  id?: number;
  score?: number;
  relevance_score?: number;
}

async function post(route: string, body: object, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(url + route, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
}

function found(results: Scored[]): [number, number][] {
  return results.map(({ index, id, score, relevance_score }) => [index ?? id ?? NaN, score ?? relevance_score ?? NaN]);
}

test("each API's body has its own answer", async () => {
  const cohere = await (await post("/v2/rerank", { model: "mini-en", query, documents: contexts })).json();
  assert.deepEqual(found(cohere.results), ranking);
  const tei = await (await post("/rerank", { query, texts: contexts })).json();
  assert.deepEqual(found(tei), ranking);
  const bare = await (await post("/rerank", { query, contexts: asObjects })).json();
  assert.deepEqual(found(bare.response), ranking);
  const route = "/client/v4/accounts/any/ai/run/@cf/baai/bge-reranker-base";
  const cloudflare = await (await post(route, { query, contexts: asObjects })).json();
  assert.deepEqual(found(cloudflare.result.response), ranking);
});

test("scores are streamed, and then their ranking", async () => {
  const response = await post("/rerank", { query, contexts: asObjects }, { accept: "application/x-ndjson" });
  assert.equal(response.headers.get("content-type"), "application/x-ndjson");
  const events = (await response.text()).trimEnd().split("\n").map((line) => JSON.parse(line));
  const last = events.pop();
  const scored = found(events.flatMap((event) => event.scored));
  assert.deepEqual(found(last.ranking.response), ranking);
  assert.deepEqual(scored.sort(), [...ranking].sort());
});

test("server-sent events have the same", async () => {
  const response = await post("/rerank", { query, documents: contexts }, { accept: "text/event-stream" });
  const blocks = (await response.text()).trimEnd().split("\n\n").map((block) => block.split("\n"));
  const [event, data] = blocks.at(-1) ?? [];
  assert.equal(event, "event: ranking");
  assert.deepEqual(found(JSON.parse(data.slice("data: ".length)).results), ranking);
});

test("an empty query is a bad request, in each API's words", async () => {
  const cohere = await post("/v2/rerank", { query: "", documents: contexts });
  assert.equal(cohere.status, 400);
  assert.match((await cohere.json()).message, /query/);
  const tei = await post("/rerank", { query: "", texts: contexts });
  assert.equal(tei.status, 422);
  assert.match((await tei.json()).error, /query/);
});
