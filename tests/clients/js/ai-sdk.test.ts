// The AI SDK's rerank, by workers-ai-provider: with our binding, and with its own REST client pointed here.

import assert from "node:assert/strict";
import { test } from "node:test";
import { APICallError, rerank } from "ai";
import { createWorkersAI } from "workers-ai-provider";
import { rerankdAI } from "../../../examples/workers-ai/rerankd-ai.mjs";
import { contexts, query, ranking, refusal, url } from "./live.ts";

const MODEL = "@cf/baai/bge-reranker-base";
const CLOUDFLARE = "https://api.cloudflare.com";
const here: typeof fetch = (asked, init) => fetch(String(asked).replace(CLOUDFLARE, url), init);

const providers = {
  // The type that Cloudflare gives its binding has every model that it hosts.
  binding: createWorkersAI({ binding: rerankdAI(url) as any }),
  rest: createWorkersAI({ accountId: "any", apiKey: "no-key", fetch: here }),
};

for (const [name, provider] of Object.entries(providers)) {
  const model = provider.reranking(MODEL);

  test(`${name}: it ranks`, async () => {
    const answer = await rerank({ model, query, documents: contexts });
    assert.deepEqual(answer.ranking.map(({ originalIndex, score }) => [originalIndex, score]), ranking);
    assert.equal(answer.ranking[0].document, contexts[ranking[0][0]]);
  });

  test(`${name}: topN`, async () => {
    const answer = await rerank({ model, query, documents: contexts, topN: 2 });
    assert.deepEqual(answer.ranking.map(({ originalIndex }) => originalIndex), ranking.slice(0, 2).map(([id]) => id));
  });

  test(`${name}: an empty query is an error of the API, not tried again`, async () => {
    const error = await refusal(() => rerank({ model, query: "", documents: contexts }));
    assert.ok(APICallError.isInstance(error));
    assert.equal(error.isRetryable, false);
    assert.match(error.message, /query/);
  });
}
