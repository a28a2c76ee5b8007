// What Transformers.js hears with a model of ours:
// `node transformers_js.mjs PACKAGES FOLDER DTYPE SOUND…`; sounds are files of float32 at 16 kHz.
import { readFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const [packages, folder, dtype, ...sounds] = process.argv.slice(2);
const built = join(packages, "node_modules/@huggingface/transformers/dist/transformers.node.mjs");
const { env, pipeline } = await import(pathToFileURL(built));
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);

const hear = await pipeline("automatic-speech-recognition", basename(folder), {
  dtype,
  device: "cpu",
  session_options: { intraOpNumThreads: 1 },
});
const texts = [];
for (const sound of sounds) {
  const bytes = readFileSync(sound);
  const samples = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  texts.push((await hear(samples)).text.trim().split(/\s+/).join(" "));
}
process.stdout.write("\n" + JSON.stringify(texts) + "\n");
