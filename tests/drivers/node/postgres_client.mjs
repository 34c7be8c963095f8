// Postgres.js, which prepares and pipelines by default: https://github.com/porsager/postgres

import { createRequire } from "node:module";
import { pipeline } from "node:stream/promises";
import { Readable } from "node:stream";
import { CLIENT, SHARDED, failure, pause, run, say, tried } from "./common.mjs";

const require = createRequire(`${process.env.NODE_PATH}/`);
const postgres = require("postgres");
const { version } = JSON.parse(require("node:fs").readFileSync(`${process.env.NODE_PATH}/postgres/package.json`));

const THINGS = `things_${CLIENT}`;
const NOTES = `notes_${CLIENT}`;

// Runs a function with connections of its own.
async function connected(body, options = {}) {
  const sql = postgres({ max: 2, connect_timeout: 60, onnotice: () => {}, ...options });
  try {
    return await body(sql);
  } finally {
    await sql.end({ timeout: 5 });
  }
}

const plain = (result) => [...result].map((row) => ({ ...row }));

await run("postgres", version, {
  async login() {
    await connected(async (sql) => {
      for (const name of ["application_name", "work_mem", "TimeZone"]) say(name, plain(await sql.unsafe(`SHOW ${name}`)));
      say(sql.parameters.server_encoding, sql.parameters.application_name, sql.parameters.TimeZone);
    }, { connection: { application_name: `client ${CLIENT}`, work_mem: `${CLIENT + 1}MB` } });
    await connected((sql) => tried(sql`SELECT 1`), { password: "wrong" });
    await connected(async (sql) => say(plain(await sql`SELECT 1 AS one`)), { target_session_attrs: "read-write" });
    await connected(async (sql) => say(plain(await sql`SELECT 1 AS one`)), { target_session_attrs: "primary" });
  },

  async values() {
    await connected(async (sql) => {
      await sql`CREATE TABLE ${sql(THINGS)} (id bigint PRIMARY KEY, name text, middle int, double float8, exact numeric, flag bool, bytes bytea,
        moment timestamp, instant timestamptz, identity uuid, document jsonb, numbers int[], words text[])`;
      const row = { id: 1, name: `thing ${CLIENT}`, middle: -5, double: 1.5, exact: "12345678901234567890.123456789", flag: true,
        bytes: Buffer.from([0, 255, CLIENT]), moment: new Date(0), instant: new Date(86400000), identity: `00000000-0000-0000-0000-00000000000${CLIENT}`,
        document: sql.json({ client: CLIENT }), numbers: [1, 2, 3], words: ["a", 'b"'] };
      say((await sql`INSERT INTO ${sql(THINGS)} ${sql(row)}`).count);
      say((await sql`INSERT INTO ${sql(THINGS)} (id, name) VALUES (2, ${null})`).count);
      for (const id of [1, 2, 3]) say(plain(await sql`SELECT * FROM ${sql(THINGS)} WHERE id = ${id}`));
      say(plain(await sql`SELECT ${sql.array([1, 2])}::int[] AS numbers`.simple().catch(failure)));
    });
  },

  async prepared() {
    await connected(async (sql) => {
      const results = [];
      for (let turn = 0; turn < 40; turn++) results.push(sql`SELECT name, ${turn}::int AS turn FROM ${sql(THINGS)} WHERE id = ${turn % 3}`);
      say((await Promise.all(results)).map(plain));
      say((await sql`SELECT * FROM ${sql(THINGS)} WHERE id = ${1}`.describe()).columns.map((column) => column.name));
      const whole = () => sql`SELECT * FROM ${sql(THINGS)} WHERE id = ${1}`.then((result) => Object.keys(result[0]).length);
      say(await whole());
      await sql`ALTER TABLE ${sql(THINGS)} ADD COLUMN more int`;
      await tried(whole());
      await sql`ALTER TABLE ${sql(THINGS)} DROP COLUMN more`;
      await tried(whole());
    }, { max: 1 });
    await connected(async (sql) => say((await Promise.all([1, 2, 3].map((n) => sql`SELECT ${n}::int AS n`))).map(plain)), { prepare: false });
  },

  async transactions() {
    await connected(async (sql) => {
      const name = async (on = sql) => plain(await on`SELECT name FROM ${sql(THINGS)} WHERE id = ${1}`);
      const rename = (on, to) => on`UPDATE ${sql(THINGS)} SET name = ${to} WHERE id = ${1}`;
      say(await sql.begin(async (on) => (await rename(on, "kept")).count), await name());
      await tried(sql.begin(async (on) => {
        await rename(on, "not kept");
        throw Object.assign(new Error("out"), { code: "mine" });
      }));
      say(await name());
      await sql.begin("isolation level repeatable read", async (on) => {
        await rename(on, "outer");
        await tried(on.savepoint(async (inner) => {
          await rename(inner, "inner");
          await inner`SELECT 1 / ${0}::int`;
        }));
        say(await name(on), plain(await on`SHOW transaction_isolation`));
      });
      say(await name());
      // all of a block in one pipeline
      say((await sql.begin((on) => [1, 2, 3].map((n) => on`SELECT ${n}::int AS n`))).map(plain));
      await tried(sql.begin((on) => [on`SELECT 1`, on`SELECT 1 / ${0}::int`, rename(on, "never")]));
      say(await name());
    });
  },

  async errors() {
    await connected(async (sql) => {
      await tried(sql`INSERT INTO ${sql(THINGS)} (id) VALUES (${1})`);
      await tried(sql`SELECT nothing`);
      await tried(sql`SELECT ${"x"}::int`);
      await tried(sql.unsafe("SELECT 1; SELECT 1 / 0"));
      say((await sql.unsafe("SELECT 1 AS a; SELECT 2 AS b, 3 AS c")).map(plain));
      say(plain(await sql`SELECT ${CLIENT}::int AS client`));
    });
  },

  async cursors() {
    await connected(async (sql) => {
      for await (const rows of sql`SELECT generate_series(1, ${250}::int) AS n`.cursor(100)) say(rows.length);
      await sql`SELECT generate_series(1, ${250}::int) AS n`.cursor(100, (rows) => {
        say(rows.length);
        return sql.CLOSE;
      });
      let sum = 0;
      await sql`SELECT generate_series(1, 50) AS n`.forEach((row) => { sum += row.n; });
      say(sum, plain(await sql`SELECT ${CLIENT}::int AS client`));
    }, { max: 1 });
  },

  async copy() {
    await connected(async (sql) => {
      await sql`CREATE TABLE ${sql(NOTES)} (id int, words text)`;
      const lines = Array.from({ length: 2000 }, (_, id) => `${id}\tclient ${CLIENT}\n`);
      await pipeline(Readable.from(lines), await sql`COPY ${sql(NOTES)} FROM STDIN`.writable());
      say(plain(await sql`SELECT count(*), max(words) FROM ${sql(NOTES)}`));
      let text = "";
      for await (const chunk of await sql`COPY (SELECT * FROM ${sql(NOTES)} ORDER BY id) TO STDOUT`.readable()) text += chunk;
      say(text.length, text.slice(0, 40));
    });
  },

  async notifications() {
    await connected(async (sql) => {
      const heard = [];
      const { unlisten } = await sql.listen(`news_${CLIENT}`, (payload) => heard.push(payload));
      await sql.notify(`news_${CLIENT}`, `one of ${CLIENT}`);
      await sql`SELECT pg_notify(${`news_${CLIENT}`}, ${"two"})`;
      for (let turn = 0; turn < 300 && heard.length < 2; turn++) await pause(100);
      say(heard);
      await unlisten();
    });
  },

  async cancel() {
    await connected(async (sql) => {
      // connected, or the driver would cancel what it has not sent yet by itself
      await sql`SELECT 1`;
      const sleep = sql`SELECT pg_sleep(50)`.execute();
      const refused = tried(sleep);
      await pause(400);
      sleep.cancel();
      await refused;
      say(plain(await sql`SELECT ${CLIENT}::int AS client`));
    });
  },

  async settings() {
    await connected(async (sql) => {
      const reserved = await sql.reserve();
      await reserved.unsafe(`SET work_mem = '${CLIENT + 1}MB'`);
      say(plain(await reserved`SHOW work_mem`));
      await reserved.unsafe("RESET ALL");
      say(plain(await reserved`SHOW work_mem`));
      reserved.release();
    });
  },

  async cleanup() {
    await connected(async (sql) => {
      await sql`DROP TABLE ${sql(THINGS)}`;
      await sql`DROP TABLE ${sql(NOTES)}`;
    });
  },
});
