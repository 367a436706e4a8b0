// examples/workers-ai in Node: the binding's stand-in, and the Worker that uses it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { RerankdError, rerankdAI } from "../../../examples/workers-ai/rerankd-ai.mjs";
import worker from "../../../examples/workers-ai/worker.mjs";
import { asObjects, query, ranking, refusal, url } from "./live.ts";

const MODEL = "@cf/baai/bge-reranker-base";
const expected = ranking.map(([id, score]) => ({ id, score }));

test("it ranks as the binding does", async () => {
  const answer = await rerankdAI(url).run(MODEL, { query, contexts: asObjects });
  assert.deepEqual(answer.response, expected);
  assert.ok(answer.usage.total_tokens > 0);
});

test("top_k", async () => {
  const answer = await rerankdAI(`${url}/`).run(MODEL, { query, contexts: asObjects, top_k: 2 });
  assert.deepEqual(answer.response, expected.slice(0, 2));
});

test("an empty query is thrown as Workers AI's error", async () => {
  const error = await refusal(() => rerankdAI(url).run(MODEL, { query: "", contexts: asObjects }));
  assert.ok(error instanceof RerankdError);
  assert.equal(error.code, 5006);
  assert.equal(error.status, 400);
  assert.match(error.message, /^5006: .*query/);
});

test("a caller that gives up", async () => {
  const signal = AbortSignal.abort();
  await assert.rejects(rerankdAI(url).run(MODEL, { query, contexts: asObjects }, { signal }), { name: "AbortError" });
});

test("the Worker asks rerankd where it is told to, and the binding where not", async () => {
  const request = () => new Request("http://worker/", { method: "POST", body: JSON.stringify({ query, contexts: asObjects }) });
  const answer = await (await worker.fetch(request(), { RERANKD_URL: url })).json();
  assert.deepEqual(answer.response, expected);
  const binding = { run: async (model: string) => ({ response: [], model }) };
  const other = await (await worker.fetch(request(), { AI: binding })).json();
  assert.deepEqual(other, { response: [], model: MODEL });
});
