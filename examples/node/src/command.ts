import { parseArgs } from "node:util";

export const KINDS = ["unary", "stream", "batch"] as const;

export interface Command {
  kind: (typeof KINDS)[number];
  target: string;
  ca?: string | undefined;
  cert?: string | undefined;
  key?: string | undefined;
  tokenFile?: string | undefined;
  model: string;
  deadlineMs: number;
  cancelAfterMs?: number | undefined;
}

/** The command line, read. Throws Error, with a sentence that says what is wrong with it. */
export function readCommand(args: string[]): Command {
  const file = { type: "string" } as const;
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      target: { type: "string" },
      ca: file,
      cert: file,
      key: file,
      "token-file": file,
      model: { type: "string", default: "" },
      "deadline-ms": { type: "string", default: "10000" },
      "cancel-after-ms": { type: "string" },
    },
  });
  const kind = KINDS.find((name) => name === positionals[0]);
  if (kind === undefined || positionals.length !== 1) {
    throw new Error(`Say which call to make: ${KINDS.join(", ")}.`);
  }
  const { target, ca, cert, key, model } = values;
  if (target === undefined) {
    throw new Error("Say whom to ask: --target HOST:PORT.");
  }
  if ((cert === undefined) !== (key === undefined)) {
    throw new Error("--cert and --key go together; give both.");
  }
  if (cert !== undefined && ca === undefined) {
    throw new Error("--cert is of no use without --ca; give that too.");
  }
  const cancelAfter = values["cancel-after-ms"];
  return {
    kind,
    target,
    ca,
    cert,
    key,
    tokenFile: values["token-file"],
    model,
    deadlineMs: milliseconds("--deadline-ms", values["deadline-ms"]),
    cancelAfterMs: cancelAfter === undefined ? undefined : milliseconds("--cancel-after-ms", cancelAfter),
  };
}

function milliseconds(flag: string, text: string): number {
  if (!/^\d{1,9}$/.test(text)) {
    throw new Error(`${flag} must be a whole number of milliseconds.`);
  }
  return Number(text);
}
