// A Worker as Cloudflare's page has it, but for `ai`: with RERANKD_URL set it asks a rerankd, else Workers AI.

import { rerankdAI } from "./rerankd-ai.mjs";

export default {
  /**
   * @param {Request} request its body: {"query": "...", "contexts": [{"text": "..."}]}
   * @param {{ RERANKD_URL?: string, RERANKD_TOKEN?: string, AI?: any }} env
   */
  async fetch(request, env) {
    const ai = env.RERANKD_URL ? rerankdAI(env.RERANKD_URL, { token: env.RERANKD_TOKEN }) : env.AI;

    const { query, contexts } = await request.json();
    const response = await ai.run("@cf/baai/bge-reranker-base", { query, contexts });
    return Response.json(response);
  },
};
