// Stands in for the Workers AI binding: its `run` asks a rerankd instead. For Workers, Node, Deno, Bun, browsers.

/**
 * What a refusal is thrown as. Its message begins with Workers AI's number, as the binding's does.
 */
export class RerankdError extends Error {
  /**
   * @param {number} code Workers AI's number, as 5006 for a bad body or 3040 for a server that is full
   * @param {string} message
   * @param {number} status HTTP's
   */
  constructor(code, message, status) {
    super(`${code}: ${message}`);
    this.name = "InferenceUpstreamError";
    this.code = code;
    this.status = status;
  }
}

/**
 * @typedef {{ query: string, contexts: { text: string }[], top_k?: number }} Asked
 * @typedef {{ response: { id: number, score: number }[], usage: { prompt_tokens: number, total_tokens: number } }} Ranking
 */

/**
 * A binding: `env.AI = rerankdAI("http://rerankd.internal:8080")`.
 *
 * @param {string} url where rerankd answers HTTP
 * @param {{ token?: string }} [options] token: the bearer token, where the server wants one
 */
export function rerankdAI(url, { token } = {}) {
  const base = url.endsWith("/") ? url : `${url}/`;
  return {
    /**
     * Ranks contexts by relevance to the query, best first. Throws RerankdError where the server refuses.
     *
     * @param {string} model any name that the server has for a model; "@cf/baai/bge-reranker-base" is its default
     * @param {Asked} inputs
     * @param {{ signal?: AbortSignal }} [options] signal: to give up, which frees the work's place in the server
     * @returns {Promise<Ranking>}
     */
    async run(model, inputs, { signal } = {}) {
      /** @type {Record<string, string>} */
      const headers = { "content-type": "application/json" };
      if (token) headers.authorization = `Bearer ${token}`;
      const route = new URL(`client/v4/accounts/rerankd/ai/run/${model}`, base);
      const response = await fetch(route, { method: "POST", headers, body: JSON.stringify(inputs), signal });
      const answer = await response.json().catch(() => ({}));
      if (!response.ok) {
        const { code = 0, message = `HTTP ${response.status}, and no JSON` } = answer.errors?.[0] ?? {};
        throw new RerankdError(code, message, response.status);
      }
      return answer.result;
    },
  };
}
