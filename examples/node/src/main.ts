/** Ranks the queries on standard input: lines of JSON in, lines of JSON out; README.md has their fields. */

import { text } from "node:stream/consumers";

import { Client } from "./client.js";
import { readCommand } from "./command.js";
import { authorization, open } from "./connection.js";
import { type Failure, isServiceError, ofCall, ofItem } from "./failure.js";
import type { RankedContext, RerankResponse } from "./gen/rerankd/v1/rerank.js";
import { type Question, readQuestions } from "./question.js";

function print(line: object): void {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

function printRanking(id: string, { results, unscored }: RerankResponse): void {
  print({ id, results: scores(results), unscored });
}

function scores(results: RankedContext[]): { id: number; score: number }[] {
  return results.map(({ id, score }) => ({ id, score }));
}

function fail(id: string, error: Failure): void {
  process.exitCode = 1;
  print({ id, error });
}

/** Makes a call; prints, where it fails, why. */
async function told(id: string, call: () => Promise<void>): Promise<void> {
  try {
    await call();
  } catch (error) {
    if (!isServiceError(error)) {
      throw error;
    }
    fail(id, ofCall(error));
  }
}

async function unary(client: Client, questions: Question[]): Promise<void> {
  for (const [at, question] of questions.entries()) {
    const id = String(at);
    await told(id, async () => printRanking(id, await client.rank(question)));
  }
}

async function stream(client: Client, questions: Question[]): Promise<void> {
  for (const [at, question] of questions.entries()) {
    const id = String(at);
    await told(id, async () => {
      for await (const { event } of client.rankStream(question)) {
        if (event?.$case === "scored") {
          print({ id, scored: scores(event.scored.results) });
        } else if (event?.$case === "ranking") {
          printRanking(id, event.ranking);
        }
      }
    });
  }
}

async function batch(client: Client, questions: Question[]): Promise<void> {
  await told("", async () => {
    for await (const { requestId, outcome } of client.rankBatch(questions)) {
      if (outcome?.$case === "response") {
        printRanking(requestId, outcome.response);
      } else if (outcome?.$case === "error") {
        fail(requestId, ofItem(outcome.error));
      }
    }
  });
}

/** What was asked for; a sentence and exit status 2 where that can't be read. */
async function prepared() {
  try {
    const command = readCommand(process.argv.slice(2));
    const metadata = authorization(command.tokenFile);
    const stub = open(command.target, command);
    return { command, metadata, stub, questions: readQuestions(await text(process.stdin)) };
  } catch (error) {
    console.error(error instanceof Error ? error.message : error);
    process.exit(2);
  }
}

const { command, metadata, stub, questions } = await prepared();
try {
  await { unary, stream, batch }[command.kind](new Client(stub, { ...command, metadata }), questions);
} finally {
  stub.close();
}
