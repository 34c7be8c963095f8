// What the Node.js programs share: parts that run one after the other, each of which says what it saw.

import { inspect } from "node:util";

// which of the clients that run at once this is: its tables are its own, and its number is in what it reads
export const CLIENT = Number(process.env.CLIENT ?? 0);
// whether statements that a sharded database refuses are left out
export const SHARDED = process.env.TARGET === "sharded";

export function say(...values) {
  const shown = (value) => (typeof value === "string" ? value : inspect(value, { depth: 9, breakLength: Infinity, maxArrayLength: 20, maxStringLength: 500 }));
  console.log(values.map((value) => shown(value).replaceAll("\n", "\\n")).join(" "));
}

export function failure(error) {
  return [error.code, error.message, error.detail, error.hint, error.position, error.table ?? error.table_name, error.constraint ?? error.constraint_name];
}

// Says what a promise yields, or the error that it fails with.
export async function tried(promise) {
  try {
    say(await promise);
  } catch (error) {
    say(failure(error));
  }
}

export const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

export async function run(driver, version, parts) {
  say(`version ${driver} ${version}`);
  for (const [name, part] of Object.entries(parts)) {
    say(`part ${name}`);
    try {
      await part();
    } catch (error) {
      say("FAILED", String(error.message));
      console.error(error);
    }
  }
}
