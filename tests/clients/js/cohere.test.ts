// Cohere's SDK for JavaScript.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CohereClient, CohereClientV2, CohereError } from "cohere-ai";
import { contexts, query, ranking, refusal, url } from "./live.ts";

const clients = {
  v1: new CohereClient({ token: "no-key", environment: url }),
  v2: new CohereClientV2({ token: "no-key", environment: url }),
};

for (const [version, client] of Object.entries(clients)) {
  test(`${version}: it ranks`, async () => {
    const answer = await client.rerank({ model: "rerank-v3.5", query, documents: contexts });
    assert.deepEqual(answer.results.map(({ index, relevanceScore }) => [index, relevanceScore]), ranking);
    assert.equal(answer.meta?.billedUnits?.searchUnits, 1);
  });

  test(`${version}: an empty query is a bad request`, async () => {
    const error = await refusal(() => client.rerank({ model: "rerank-v3.5", query: "", documents: contexts }));
    assert.ok(error instanceof CohereError);
    assert.equal(error.statusCode, 400);
  });
}
