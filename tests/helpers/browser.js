// Opens a page in headless Chromium and runs steps on it, without any package: node browser.js CHROMIUM PROFILE FILE STEPS
// STEPS is JSON: [{"width": 390, "dark": true, "script": "…"}]. Prints {exceptions, requests, results} as JSON.
"use strict";
const { spawn } = require("child_process");

const [chromium, profile, file, steps] = process.argv.slice(2);
const flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", `--user-data-dir=${profile}`];
const browser = spawn(chromium, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
const [requests, exceptions, results, waiting] = [[], [], [], new Map()];
let received = "";
let last = 0;

browser.stdio[4].on("data", (data) => {
  received += data;
  const messages = received.split("\0");
  received = messages.pop();
  for (const { id, result, method, params } of messages.map((message) => JSON.parse(message))) {
    if (waiting.has(id)) waiting.get(id)(result);
    if (method === "Network.requestWillBeSent") requests.push(params.request.url);
    if (method === "Runtime.exceptionThrown") exceptions.push(params.exceptionDetails.exception.description);
  }
});

function send(method, params = {}, sessionId = undefined) {
  last += 1;
  browser.stdio[3].write(JSON.stringify({ id: last, method, params, sessionId }) + "\0");
  return new Promise((resolve) => waiting.set(last, resolve));
}

async function main() {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const page = (method, params) => send(method, params, sessionId);
  const evaluate = async (expression) => {
    const { result, exceptionDetails } = await page("Runtime.evaluate", { expression, returnByValue: true });
    if (exceptionDetails) exceptions.push(exceptionDetails.exception.description);
    return result.value;
  };
  for (const domain of ["Page", "Runtime", "Network"]) await page(`${domain}.enable`);
  for (const { width, dark, script } of JSON.parse(steps)) {
    await page("Emulation.setDeviceMetricsOverride", { width, height: 900, deviceScaleFactor: 1, mobile: false });
    const theme = { name: "prefers-color-scheme", value: dark ? "dark" : "light" };
    await page("Emulation.setEmulatedMedia", { features: [theme] });
    await page("Page.navigate", { url: "about:blank" });
    await page("Page.navigate", { url: `file://${file}` });
    while ((await evaluate("document.readyState + location.protocol")) !== "completefile:");
    results.push(await evaluate(script));
  }
  process.stdout.write(JSON.stringify({ exceptions, requests, results }));
  await send("Browser.close");
  process.exit(0);
}

main();
