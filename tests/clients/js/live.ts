// The server that the tests ask, and what it must answer: told by tests/clients/test_node.py.

import assert from "node:assert/strict";

interface Told {
  url: string;
  query: string;
  contexts: string[];
  ranking: [id: number, score: number][];
}

export const { url, query, contexts, ranking }: Told = JSON.parse(process.env.LIVE ?? "");
export const asObjects = contexts.map((text) => ({ text }));

/** How many requests to rank the server has had, by its own metrics. */
async function calls(): Promise<number> {
  const metrics = await (await fetch(`${url}/metrics`)).text();
  const started = metrics.matchAll(/^grpc_server_started_total\{.*grpc_service="http".*\} (\S+)$/gm);
  return [...started].reduce((sum, [, count]) => sum + Number(count), 0);
}

/** What the work is refused with, which must have taken one request and no more. */
export async function refusal(work: () => Promise<unknown>): Promise<any> {
  const before = await calls();
  let thrown: unknown;
  await assert.rejects(work, (error) => {
    thrown = error;
    return true;
  });
  assert.equal(await calls(), before + 1);
  return thrown;
}
