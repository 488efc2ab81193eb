// One selection drives every picture: what depends on it is drawn anew when it changes.

function drawStepper(kind, all, label) {
  const box = document.querySelector(`[data-stepper="${kind}"]`);
  const move = (by) => select({ [kind]: all[all.indexOf(selection[kind]) + by] });
  const back = name(el("button", { type: "button", onclick: () => move(-1) }, "‹"), `Previous ${kind}`, `前の${label}`);
  const next = name(el("button", { type: "button", onclick: () => move(1) }, "›"), `Next ${kind}`, `次の${label}`);
  const output = el("output", { "aria-live": "polite" });
  box.append(back, output, next);
  return () => {
    const index = all.indexOf(selection[kind]);
    back.disabled = index === 0;
    next.disabled = index === all.length - 1;
    output.replaceChildren(
      ...(kind === "token"
        ? [...both(`token ${selection.token} `, `トークン ${selection.token} `), token(page.ids[selection.token])]
        : both(`layer ${selection.layer}`, `層 ${selection.layer}`)),
    );
  };
}

const updates = []; // [parts of the selection, function that draws what depends on them]

function draws(parts, update) {
  updates.push([parts, update]);
}

function updateAll() {
  for (const [, update] of updates) update();
}

function select(change) {
  Object.assign(selection, change);
  for (const [parts, update] of updates) if (parts.some((part) => part in change)) update();
}

function repaint() {
  readHeat();
  map.painted = null;
  drawScale();
  for (const canvas of document.querySelectorAll(".thumb canvas")) lazy.observe(canvas);
  updateMap();
}

function start() {
  drawCheck();
  for (const button of document.querySelectorAll("[data-language]"))
    button.addEventListener("click", () => setLanguage(button.dataset.language));
  drawHead();
  if (wrong.length === 0) {
    readHeat();
    drawText();
    drawStrip();
    drawRail();
    draws(["token"], () => choose($("strip"), $("strip").children[selection.token]));
    draws(
      ["token"],
      drawStepper(
        "token",
        Array.from({ length: N }, (_, i) => i),
        "トークン",
      ),
    );
    draws(["layer"], drawStepper("layer", page.layers, "層"));
    draws(["token", "layer", "operation"], updateCard);
    draws(["token"], updateResidual);
    draws(["token", "lens"], updateLens);
    draws(["step"], updateChoice);
    listenToLens();
    if (hasAttention()) {
      selectClearestHead();
      drawThumbs();
      drawScale();
      drawMap();
      listenToMap();
      drawAttentionNote();
      draws(["token", "key", "map"], () => updateMap());
      // on paper there is no scrolling, which draws the others
      window.addEventListener("beforeprint", () => document.querySelectorAll(".thumb canvas").forEach(paintThumb));
    } else $("attention").hidden = true;
    drawChoices();
    drawCache();
    drawDrafts();
    updateAll();
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => hasAttention() && repaint());
    let width = window.innerWidth;
    window.addEventListener("resize", () => {
      if (window.innerWidth === width) return;
      width = window.innerWidth;
      if (hasAttention()) {
        map.painted = null;
        drawMap();
      }
      drawCache();
      updateAll();
    });
  } else document.querySelector("main").hidden = document.querySelector(".bar").hidden = true;
  setLanguage(
    location.hash === "#ja" || (location.hash !== "#en" && navigator.language.startsWith("ja")) ? "ja" : "en",
  );
}

start();
