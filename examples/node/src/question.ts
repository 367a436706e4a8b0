/** A line of input: a query, its candidates, and what may be asked of them. */
export interface Question {
  query: string;
  contexts: string[];
  top_k?: number | undefined;
  budget_ms?: number | undefined;
}

/** Lines of JSON. Throws Error, with a sentence that names the line. */
export function readQuestions(text: string): Question[] {
  const lines = text.split("\n");
  if (lines.at(-1) === "") {
    lines.pop();
  }
  return lines.map((line, at) => {
    const value = parsed(line);
    if (!isQuestion(value)) {
      throw new Error(
        `Line ${at} of the input must be an object with a query and a list of contexts, which are strings,` +
          " and where given top_k and budget_ms, which are whole numbers.",
      );
    }
    return value;
  });
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

function isQuestion(value: unknown): value is Question {
  if (typeof value !== "object" || value === null) {
    return false;
  }
  const { query, contexts, top_k, budget_ms } = value as Record<string, unknown>;
  return (
    typeof query === "string" &&
    Array.isArray(contexts) &&
    contexts.every((text) => typeof text === "string") &&
    isCount(top_k) &&
    isCount(budget_ms)
  );
}

function isCount(value: unknown): boolean {
  return value === undefined || (Number.isInteger(value) && Number(value) >= 0 && Number(value) < 2 ** 32);
}
