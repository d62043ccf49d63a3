// Runs a WASI program in node with the environment, the working folder and /tmp:
//   node tests/targets/wasi.mjs program arguments
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { WASI } from "node:wasi";

const args = process.argv.slice(2);
const wasi = new WASI({
    version: "preview1",
    args,
    env: process.env,
    preopens: { ".": ".", [tmpdir()]: tmpdir() },
    returnOnExit: true,
});
const module = await WebAssembly.compile(await readFile(args[0]));
const imports = { wasi_snapshot_preview1: wasi.wasiImport };
const instance = await WebAssembly.instantiate(module, imports);
process.exitCode = wasi.start(instance);
