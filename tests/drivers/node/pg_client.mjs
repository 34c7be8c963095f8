// node-postgres: https://node-postgres.com

import { createRequire } from "node:module";
import { CLIENT, SHARDED, failure, pause, run, say, tried } from "./common.mjs";

const require = createRequire(`${process.env.NODE_PATH}/`);
const { Client, Pool } = require("pg");
const Cursor = require("pg-cursor");
const copyStreams = require("pg-copy-streams");
const { version } = require("pg/package.json");

const THINGS = `things_${CLIENT}`;
const NOTES = `notes_${CLIENT}`;

// Runs a function with a connection of its own.
async function connected(body, options = {}) {
  const client = new Client({ connectionTimeoutMillis: 60000, ...options });
  await client.connect();
  try {
    return await body(client);
  } finally {
    await client.end();
  }
}

const rows = async (client, ...query) => (await client.query(...query)).rows;

await run("pg", version, {
  async login() {
    const options = { application_name: `client ${CLIENT}`, options: `-c work_mem=${CLIENT + 1}MB`, statement_timeout: 55000 };
    await connected(async (client) => {
      for (const name of ["application_name", "work_mem", "statement_timeout", "TimeZone"]) say(name, await rows(client, `SHOW ${name}`));
    }, options);
    await tried(connected(() => "in", { password: "wrong" }));
    await tried(connected(() => "in", { user: "nobody" }));
  },

  async values() {
    await connected(async (client) => {
      await client.query(`CREATE TABLE ${THINGS} (id bigint PRIMARY KEY, name text, middle int, double float8, exact numeric, flag bool, bytes bytea,
        day date, moment timestamp, instant timestamptz, span interval, identity uuid, document jsonb, plain json, numbers int[], words text[])`);
      const insert = `INSERT INTO ${THINGS} VALUES (${Array.from({ length: 16 }, (_, index) => `$${index + 1}`)})`;
      say((await client.query(insert, [1, `thing ${CLIENT}`, -5, 1.5, "12345678901234567890.123456789", true, Buffer.from([0, 255, CLIENT]),
        "2024-02-29", new Date(0), new Date(86400000), "3 days 4 seconds", `00000000-0000-0000-0000-00000000000${CLIENT}`, { client: CLIENT },
        JSON.stringify([1, null]), [1, null, 3], ["a", 'b"', null]])).rowCount);
      await client.query(insert, [2, ...Array(15).fill(null)]);
      for (const id of [1, 2, 3]) {
        const result = await client.query(`SELECT * FROM ${THINGS} WHERE id = $1`, [id]);
        say(result.rows, result.fields.map((field) => field.dataTypeID));
      }
      say(await rows(client, { text: "SELECT $1::int, $2::text", values: [CLIENT, "as an array"], rowMode: "array" }));
      say(await rows(client, { text: "SELECT $1::int, $2::text, 1.5::float8", values: [CLIENT, "in binary"], binary: true }));
    });
  },

  async prepared() {
    await connected(async (client) => {
      for (let turn = 0; turn < 30; turn++) {
        say(await rows(client, { name: "by id", text: `SELECT name, $2::int AS turn FROM ${THINGS} WHERE id = $1`, values: [turn % 3, turn] }));
        say(await rows(client, { name: `sum ${turn % 4}`, text: `SELECT ${turn % 4} + $1::int AS sum`, values: [CLIENT] }));
      }
      await tried(client.query({ name: "by id", text: "SELECT 'another text'" }));
      const whole = { name: "whole", text: `SELECT * FROM ${THINGS} WHERE id = $1`, values: [1] };
      say((await rows(client, whole)).length);
      await client.query(`ALTER TABLE ${THINGS} ADD COLUMN more int`);
      await tried(client.query(whole).then((result) => Object.keys(result.rows[0]).length));
      await client.query(`ALTER TABLE ${THINGS} DROP COLUMN more`);
    });
  },

  async transactions() {
    await connected(async (client) => {
      const name = () => rows(client, `SELECT name FROM ${THINGS} WHERE id = $1`, [1]);
      const rename = async (to) => (await client.query(`UPDATE ${THINGS} SET name = $1 WHERE id = $2`, [to, 1])).rowCount;
      await client.query("BEGIN");
      say(await rename("kept"));
      say((await client.query("COMMIT")).command);
      await client.query("BEGIN");
      await rename("not kept");
      say((await client.query("ROLLBACK")).command, await name());
      await client.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
      await client.query("SAVEPOINT a");
      await rename("not kept either");
      await tried(client.query("SELECT 1 / $1::int", [0]));
      await tried(client.query("SELECT 1"));
      await client.query("ROLLBACK TO a");
      say(await name());
      await tried(client.query("SELECT 1 / 0"));
      say((await client.query("COMMIT")).command, await name());
    });
  },

  async errors() {
    await connected(async (client) => {
      const notices = [];
      client.on("notice", (notice) => notices.push(notice.message));
      await tried(client.query(`INSERT INTO ${THINGS} (id) VALUES ($1)`, [1]));
      await tried(client.query("SELECT nothing"));
      await tried(client.query("SELECT $1::int", ["x"]));
      await tried(client.query("SELECT $1::int", [1, 2]));
      await tried(client.query("SELECT 1; SELECT 1 / 0"));
      say((await client.query("SELECT 1 AS a; SELECT 2 AS b, 3 AS c")).map((result) => result.rows));
      say((await client.query("")).rows);
      await client.query("DROP TABLE IF EXISTS nowhere");
      say(notices, await rows(client, "SELECT $1::int AS client", [CLIENT]));
    });
  },

  // queries that are sent before the answers to those before them have come
  async pipelines() {
    await connected(async (client) => {
      const texts = Array.from({ length: 50 }, (_, turn) => client.query("SELECT $1::int + $2::int AS sum", [turn, CLIENT]));
      const failed = client.query("SELECT 1 / $1::int", [0]).catch(failure);
      const after = client.query(`SELECT name FROM ${THINGS} WHERE id = $1`, [1]);
      say((await Promise.all(texts)).map((result) => result.rows[0].sum).join(), await failed, (await after).rows);
    });
    await connected(async (client) => {
      const cursor = client.query(new Cursor("SELECT generate_series(1, $1::int) AS n", [250]));
      for (let count; (count = (await cursor.read(100)).length) > 0; ) say(count);
      await cursor.close();
      const left = client.query(new Cursor("SELECT generate_series(1, $1::int) AS n", [250]));
      say(await left.read(2));
      await left.close();
      say(await rows(client, "SELECT $1::int AS client", [CLIENT]));
    });
  },

  async copy() {
    await connected(async (client) => {
      await client.query(`CREATE TABLE ${NOTES} (id int, words text)`);
      const ended = (stream) => new Promise((resolve, reject) => stream.on("finish", resolve).on("error", reject));
      const into = client.query(copyStreams.from(`COPY ${NOTES} FROM STDIN`));
      for (let id = 0; id < 2000; id++) into.write(`${id}\tclient ${CLIENT}\n`);
      into.end();
      await ended(into);
      say(into.rowCount);
      let text = "";
      for await (const chunk of client.query(copyStreams.to(`COPY (SELECT * FROM ${NOTES} ORDER BY id) TO STDOUT (FORMAT csv)`))) text += chunk;
      say(text.length, text.slice(0, 40));
      const wrong = client.query(copyStreams.from(`COPY ${NOTES} FROM STDIN`));
      wrong.end("x\ty\n");
      await tried(ended(wrong));
      say(await rows(client, `SELECT count(*) FROM ${NOTES}`));
    });
  },

  async notifications() {
    await connected((listener) => connected(async (sender) => {
      const heard = [];
      listener.on("notification", (message) => heard.push([message.channel, message.payload, message.processId === sender.processID]));
      await listener.query(`LISTEN news_${CLIENT}`);
      await sender.query(`NOTIFY news_${CLIENT}, 'one of ${CLIENT}'`);
      await sender.query("SELECT pg_notify($1, $2)", [`news_${CLIENT}`, "two"]);
      await sender.query(`NOTIFY other_${CLIENT}`);
      for (let turn = 0; turn < 300 && heard.length < 2; turn++) await pause(100);
      say(heard);
      await listener.query("UNLISTEN *");
      await sender.query(`NOTIFY news_${CLIENT}`);
      say(await rows(listener, "SELECT 1 AS one"), heard.length);
    }));
  },

  async cancel() {
    await connected((client) => connected(async (other) => {
      const sleep = client.query("SELECT pg_sleep(50)");
      const refused = tried(sleep);
      await pause(300);
      new Client().cancel(client, client.activeQuery ?? client._activeQuery);
      await refused;
      say(await rows(client, "SELECT $1::int AS client", [CLIENT]), await rows(other, "SELECT 1 AS one"));
    }));
    await connected((client) => tried(client.query("SELECT pg_sleep(50)")), { statement_timeout: 200 });
  },

  async pools() {
    const pool = new Pool({ max: 3, application_name: `pool ${CLIENT}` });
    const sums = await Promise.all(Array.from({ length: 30 }, (_, turn) => pool.query({ name: "sum", text: "SELECT $1::int + $2::int AS sum", values: [turn, CLIENT] })));
    say(sums.map((result) => result.rows[0].sum).join());
    const client = await pool.connect();
    await client.query(`SET work_mem = '${CLIENT + 1}MB'`);
    await client.query("SET TimeZone = 'Asia/Tokyo'");
    say(await rows(client, "SHOW work_mem"), await rows(client, "SHOW TimeZone"), await rows(client, "SHOW application_name"));
    await client.query("DISCARD ALL");
    say(await rows(client, "SHOW work_mem"), await rows(client, "SHOW TimeZone"));
    client.release();
    await pool.end();
  },

  async cleanup() {
    await connected(async (client) => {
      await client.query(`DROP TABLE ${THINGS}`);
      await client.query(`DROP TABLE ${NOTES}`);
    });
  },
});
