// One request with OpenAI's client for Node: `node openai_client.cjs URL REQUEST`, both as text.
// REQUEST is JSON: {"what": "transcriptions", "file": PATH, "options": {…}}; the answer is JSON too.
"use strict";

const fs = require("node:fs");
const { OpenAI } = require("openai");

async function answer(client, { what, file, options }) {
  if (what === "models") {
    const found = [];
    for await (const model of client.models.list()) found.push(model.id);
    return found;
  }
  if (what === "model") return client.models.retrieve(options.model);
  const given = await client.audio[what].create({ file: fs.createReadStream(file), ...options });
  if (!options.stream) return given;
  const events = [];
  for await (const event of given) events.push(event);
  return events;
}

async function main(baseURL, request) {
  const client = new OpenAI({ apiKey: "any", baseURL, maxRetries: 0 });
  try {
    return { answer: await answer(client, request) };
  } catch (error) {
    return { error: { kind: error.constructor.name, status: error.status, code: error.code } };
  }
}

main(process.argv[2], JSON.parse(process.argv[3])).then((said) =>
  process.stdout.write(JSON.stringify(said)),
);
