"use strict";
// Draws the page from its data. One selection (token, layer, head, operation, choice) drives every picture.

const page = JSON.parse(document.getElementById("data").textContent);
const { decoded: tensors, wrong } = decodeAll(page.tensors);
const N = page.ids.length - 1; // processed tokens: the last one is never an input
const LAYERS = page.model.layers;
const $ = (id) => document.getElementById(id);

const selection = {
  token: Math.min(page.prompt_length - 1, N - 1),
  layer: page.layers[0], // of the operations
  map: { layer: page.layers[0], head: page.heads[0] },
  key: 0, // the column of the map
  lens: LAYERS, // the row of the lens: 0 is the embedding
  operation: 0,
  step: 0,
};

// Elements

function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") element.style.cssText = value;
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat());
  return element;
}

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.flat());
  return element;
}

// A text in both languages; the style sheet shows the chosen one.
function both(english, japanese) {
  return [el("span", { lang: "en" }, english), el("span", { lang: "ja" }, japanese)];
}

// The name of an element for screen readers, in both languages.
function name(element, english, japanese) {
  element.dataset.nameEn = english;
  element.dataset.nameJa = japanese;
  element.setAttribute("aria-label", document.documentElement.lang === "ja" ? japanese : english);
  return element;
}

function setLanguage(language) {
  document.documentElement.lang = language;
  for (const button of document.querySelectorAll("[data-language]"))
    button.setAttribute("aria-pressed", String(button.dataset.language === language));
  for (const element of document.querySelectorAll("[data-name-en]"))
    element.setAttribute("aria-label", language === "ja" ? element.dataset.nameJa : element.dataset.nameEn);
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }; // rows, columns

// Arrow keys move the focus within a list of choices; only the selected one is a tab stop.
function arrows(container, items) {
  container.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(document.activeElement);
    const [down, right] = MOVES[event.key] ?? [NaN, NaN];
    const next = event.key === "Home" ? 0 : event.key === "End" ? all.length - 1 : at + down + right;
    if (at < 0 || !all[next]) return;
    event.preventDefault();
    all[next].focus();
    all[next].click();
  });
}

function choose(container, chosen) {
  for (const option of container.querySelectorAll("[role=option]")) {
    option.setAttribute("aria-selected", String(option === chosen));
    option.tabIndex = option === chosen ? 0 : -1;
  }
}

// Tokens and numbers

const LINE_ENDS = { "<0x0A>": "⏎", "<0x0D>": "␍", "<0x09>": "⇥" };

// A text with visible signs for what has no shape: line ends, spaces, joiners.
function written(text) {
  const shown = (LINE_ENDS[text] ?? text).replaceAll("\n", "⏎").replace(/^\s+$/, (spaces) => "␣".repeat(spaces.length));
  return shown.replace(
    /[\p{Cc}\p{Cf}]/gu,
    (sign) => `U+${sign.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`,
  );
}

function piece(id) {
  return page.pieces[id] ? written(page.pieces[id]) : `#${id}`;
}

const tokenAt = (position) => piece(page.ids[position]);
const isNew = (position) => position >= page.prompt_length;

function token(id) {
  return el("span", { class: "piece", lang: "ja-JP" }, piece(id));
}

function number(value) {
  if (Number.isNaN(value)) return "–";
  if (value < -1e30) return "−∞";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(3) : value.toPrecision(4);
  return text.replace(/-/g, "−");
}

function probability(p) {
  return p < 0.00005 ? "<0.0001" : p.toFixed(4);
}

const grouped = (n) => n.toLocaleString("en-US");

// Tensor "name" at [row][column]…, flattened from the end
function at(name, ...index) {
  const { shape, values } = tensors[name];
  return values[index.reduce((offset, i, axis) => offset * shape[axis] + i, 0)];
}

const callOf = (position) => {
  // the last call that processed the position; earlier ones held rejected draft tokens
  for (let i = page.calls.length - 1; i >= 0; i--) {
    const [T, S] = page.calls[i];
    if (position < S && position >= S - T) return { T, S: Math.min(S, N), number: i };
  }
  return { T: 1, S: position + 1, number: 0 };
};

const layerOf = (row) => (row === 0 ? both("embedding", "埋め込み") : both(`layer ${row - 1}`, `層 ${row - 1}`));

// The head of the page

function drawHead() {
  const { model, texts } = page;
  const text = texts[0].text;
  document.title = `${text.slice(0, 40)} · llama_jp inspect`;
  $("title").append(el("span", { lang: "ja-JP" }, text.length > 160 ? `${text.slice(0, 160)}…` : text));
  $("answer").append(
    el("span", { lang: "ja-JP" }, `→ ${page.answer || page.ids.slice(page.prompt_length).map(piece).join("")}`),
  );
  const { H, K } = page.sizes;
  const tokens = `${page.prompt_length} + ${page.ids.length - page.prompt_length}`;
  const count = model.parameters === null ? null : grouped(model.parameters); // of quantised weights it is not known
  const english = [
    model.name,
    count && `${count} parameters`,
    `${LAYERS} layer${LAYERS > 1 ? "s" : ""}`,
    `${H} heads (${K} of keys and values)`,
    model.quantization ?? model.dtype,
    model.attention,
    `${tokens} tokens`,
  ];
  const japanese = [
    model.name,
    count && `パラメーター ${count} 個`,
    `${LAYERS} 層`,
    `ヘッド ${H} 個（キー・バリューは ${K} 個）`,
    model.quantization ?? model.dtype,
    model.attention,
    `${tokens} トークン`,
  ];
  $("facts").append(...both(...[english, japanese].map((facts) => facts.filter(Boolean).join(" · "))));
}

function drawCheck() {
  const count = Object.keys(page.tensors).length;
  const good = wrong.length === 0;
  $("check").className = `check ${good ? "good" : "bad"}`;
  $("check").replaceChildren(
    ...(good
      ? both(
          `✓ All ${count} tensors match their checksums.`,
          `✓ ${count} 個のテンソルすべてが、チェックサムと一致しました。`,
        )
      : both(
          `Do not trust this page: ${wrong.length} of ${count} tensors do not match their checksums. Make it again. ${wrong.slice(0, 3).join("; ")}`,
          `このページの数値は信用できません。${count} 個のうち ${wrong.length} 個のテンソルがチェックサムと一致しません。作り直してください。${wrong.slice(0, 3).join("; ")}`,
        )),
  );
  document.documentElement.dataset.check = good ? "good" : "bad";
}

// From text to ids

function drawText() {
  const text = page.texts[0].text;
  const encoder = new TextEncoder();
  const characters = [];
  let offset = 0;
  for (const character of text) {
    const bytes = encoder.encode(character);
    characters.push({ character, bytes, begin: offset, end: (offset += bytes.length) });
  }
  const box = $("characters");
  name(box, "Characters of the text", "文章の文字");
  const pieces = [];

  const show = (element) => {
    const item = characters[Number(element.dataset.index)];
    choose(box, element);
    box.querySelector(".on")?.classList.remove("on");
    element.classList.add("on");
    const touches = (t) => t.begin !== null && t.begin < item.end && t.end > item.begin;
    for (const { span, token } of pieces) span.classList.toggle("on", touches(token));
    const hex = [...item.bytes].map((b) => b.toString(16).toUpperCase().padStart(2, "0")).join(" ");
    const shown = written(item.character);
    const names = ({ name: label, tokens, pieces: spelled }) => {
      const found = tokens.filter(touches).map((t) => `${written(spelled[t.id])} (${t.id})`);
      return `${label || page.model.name}: ${found.join(" + ") || "?"}`;
    };
    const all = page.texts.map(names).join("; ");
    $("character").replaceChildren(
      ...both(
        `${shown} = ${hex}, ${item.bytes.length} byte${item.bytes.length > 1 ? "s" : ""}. ${all}`,
        `${shown} = ${hex}（${item.bytes.length} バイト）。${all}`,
      ),
    );
  };
  characters.forEach(({ character }, index) => {
    const shown = written(character);
    const span = el("span", { role: "option", "data-index": index, tabindex: index ? -1 : 0, lang: "ja-JP" }, shown);
    span.addEventListener("click", () => show(span));
    span.addEventListener("mouseenter", () => show(span));
    span.addEventListener("focus", () => show(span));
    box.append(span);
  });
  arrows(box, () => [...box.children]);

  for (const { name: label, tokens, pieces: names } of page.texts) {
    const row = el("div", { class: "pieces", lang: "ja-JP" });
    for (const item of tokens) {
      const hex = item.bytes.replace(/../g, "$& ").trim().toUpperCase();
      const text = written(names[item.id]);
      const span = el(
        "span",
        {},
        el("span", { class: "piece" }, text || "∅"),
        el("span", { class: "id" }, String(item.id)),
      );
      span.title = hex || "–";
      span.addEventListener("mouseenter", () => {
        for (const { span: other } of pieces) other.classList.toggle("on", other === span);
        box.querySelectorAll(".on").forEach((e) => e.classList.remove("on"));
        characters.forEach(({ begin, end }, index) => {
          if (item.begin !== null && item.begin < end && item.end > begin) box.children[index].classList.add("on");
        });
        $("character").replaceChildren(
          ...both(
            `${text} = id ${item.id}: ${hex || "no bytes, a special token"}`,
            `${text} = id ${item.id}: ${hex || "バイトなし（特殊トークン）"}`,
          ),
        );
      });
      pieces.push({ span, token: item });
      row.append(span);
    }
    const ratio = (characters.length / tokens.length).toFixed(2);
    const title = label || page.model.name;
    $("tokenizers").append(
      el(
        "div",
        { class: "tokenizer" },
        el(
          "h4",
          {},
          both(
            `${title}: ${tokens.length} tokens, ${ratio} characters per token`,
            `${title}: ${tokens.length} トークン、1 トークンあたり ${ratio} 文字`,
          ),
        ),
        row,
      ),
    );
  }
  if (characters.length) show(box.children[0]);
}

function drawStrip() {
  const strip = $("strip");
  name(strip, "Tokens of prompt and answer", "プロンプトと答えのトークン");
  page.ids.forEach((id, position) => {
    const kind = page.special.includes(id) ? "special" : isNew(position) ? "new" : "";
    const button = el("button", { type: "button", role: "option", class: kind, lang: "ja-JP" }, piece(id));
    button.title = `${position}: ${piece(id)} (id ${id})`;
    if (position === N) {
      button.disabled = true; // it was never an input
      button.title += " – not processed: the run ends with it / 最後のトークンなので、モデルには入力されていません";
    }
    button.addEventListener("click", () => select({ token: position }));
    strip.append(button);
  });
  arrows(strip, () => [...strip.children].filter((each) => !each.disabled));
}

// The bar

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

// Operations

const OPERATIONS = page.operations;
const GROUPS = [
  { title: both("Input", "入力"), names: ["embed", "rope"] },
  {
    title: both(`One of ${LAYERS} layers, all alike`, `全 ${LAYERS} 層のうちの一つ（どれも同じ形）`),
    stepper: true,
    branches: [
      {
        colour: "--attention",
        names: ["attention_norm", "q", "k", "v", "q_rot", "k_rot", "cache", "scores", "weights", "mix", "o"],
      },
      { names: ["attention_add"] },
      { colour: "--mlp", names: ["mlp_norm", "gate", "up", "act", "down"] },
      { names: ["block"] },
    ],
  },
  { title: both("Output", "出力"), names: ["norm", "logits", "filter", "choose", "append"] },
];
const STREAM = ["embed", "attention_add", "block"]; // the residual stream itself
const cards = Object.fromEntries([...document.querySelectorAll(".card")].map((card) => [card.dataset.op, card]));
const titleOf = (operation) => cards[operation].querySelector("h3").cloneNode(true).childNodes;

function drawRail() {
  const rail = $("rail");
  const button = (operation) => {
    const index = OPERATIONS.findIndex((each) => each.name === operation);
    const kind = STREAM.includes(operation) ? "stream" : "";
    return el(
      "button",
      { type: "button", "data-op": operation, class: kind, onclick: () => select({ operation: index }) },
      ...titleOf(operation),
    );
  };
  for (const group of GROUPS) {
    const box = el("div", { class: "group" });
    for (const branch of group.branches ?? [{ names: group.names }])
      box.append(
        el(
          "div",
          branch.colour ? { class: "branch", style: `--branch: var(${branch.colour})` } : {},
          branch.names.map(button),
        ),
      );
    rail.append(el("h4", {}, ...group.title), box);
    if (group.stepper) box.before(el("div", { class: "stepper", "data-stepper": "layer" }));
  }
  $("back").addEventListener("click", () => select({ operation: selection.operation - 1 }));
  $("next-layer").addEventListener("click", () =>
    select({
      layer: page.layers[page.layers.indexOf(selection.layer) + 1],
      operation: OPERATIONS.findIndex((each) => each.name === "attention_norm"),
    }),
  );
  $("continue").addEventListener("click", () => select({ operation: (selection.operation + 1) % OPERATIONS.length }));
}

// The inputs of an operation. The first layer starts from the embedding.
function inputsOf(operation) {
  return operation.inputs.map((input) =>
    input === "block" && operation.name !== "norm" && selection.layer === 0 ? "embed" : input,
  );
}

function updateCard() {
  const operation = OPERATIONS[selection.operation];
  const inputs = inputsOf(operation);
  for (const [each, card] of Object.entries(cards)) card.hidden = each !== operation.name;
  for (const button of $("rail").querySelectorAll("button")) {
    const current = button.dataset.op === operation.name;
    if (current) button.setAttribute("aria-current", "step");
    else button.removeAttribute("aria-current");
    button.classList.toggle("input", inputs.includes(button.dataset.op));
    if (current) keepVisible(button, $("rail"));
  }
  const last = selection.operation === OPERATIONS.length - 1;
  $("back").disabled = selection.operation === 0;
  $("continue").replaceChildren(...(last ? both("From the start", "最初から") : both("Continue", "次へ")));
  $("progress").style.width = `${((selection.operation + 1) / OPERATIONS.length) * 100}%`;
  $("place").textContent = `${selection.operation + 1} / ${OPERATIONS.length}`;
  const following = page.layers[page.layers.indexOf(selection.layer) + 1];
  $("next-layer").hidden = operation.name !== "block" || following === undefined;
  $("next-layer").replaceChildren(...both(`Repeat in layer ${following}`, `層 ${following} で繰り返す`));

  const call = callOf(selection.token);
  const sizes = { ...page.sizes, T: call.T, S: call.S, "N + 1": selection.token + 2 };
  const value = (letter) =>
    letter in sizes ? sizes[letter] : letter.split("·").reduce((a, b) => a * (sizes[b] ?? Number(b)), 1);
  $("shape").replaceChildren(
    el("span", { class: "mono" }, `(${operation.shape.join(", ")}) = (${operation.shape.map(value).join(", ")})`),
    el(
      "span",
      { class: "note" },
      ...both(`  in call ${call.number} of the model`, `　モデルの呼び出し ${call.number}`),
    ),
  );
  $("inputs").replaceChildren(
    ...(inputs.length
      ? inputs.map((input) => {
          const index = OPERATIONS.findIndex((each) => each.name === input);
          return el("button", { type: "button", onclick: () => select({ operation: index }) }, ...titleOf(input));
        })
      : both("the ids and their positions", "id と位置")),
  );
  showValues(operation);
  showSource(operation);
}

// Scrolls the box only, never the page. The first `covered` pixels of the box lie under a sticky head.
function keepVisible(element, box, covered = 0) {
  const top = element.getBoundingClientRect().top - box.getBoundingClientRect().top;
  if (top < covered || top + element.offsetHeight > box.clientHeight) box.scrollTop += top - box.clientHeight / 2;
}

const HEADED = ["q_rot", "k_rot", "scores", "weights", "mix"]; // operations with one vector for each head

function showValues(operation) {
  const tensor = `values.${operation.point.replace("layers.N", `layers.${selection.layer}`)}`;
  const title = $("values-title");
  const box = $("values");
  const choice = page.choices[Math.max(0, selection.token - page.prompt_length + 1)];
  if (operation.point && tensors[tensor]) {
    const all = Array.from({ length: page.values }, (_, i) => at(tensor, selection.token, i)).filter(
      (x) => !Number.isNaN(x),
    );
    const keys = ["scores", "weights"].includes(operation.name);
    title.replaceChildren(...both("Values", "値"));
    box.replaceChildren(
      el(
        "div",
        { class: "numbers" },
        all.map((x) => el("span", {}, number(x))),
        el("span", {}, "…"),
      ),
      el(
        "div",
        { class: "note" },
        ...(keys
          ? both(`of head 0, on keys 0 to ${all.length - 1}`, `ヘッド 0、キー 0〜${all.length - 1} に対して`)
          : HEADED.includes(operation.name)
            ? both(
                `the first ${all.length} of head 0, at token ${selection.token}`,
                `ヘッド 0 の先頭 ${all.length} 個、トークン ${selection.token}`,
              )
            : both(
                `the first ${all.length}, at token ${selection.token}`,
                `先頭の ${all.length} 個、トークン ${selection.token}`,
              )),
      ),
    );
  } else if (choice && ["logits", "filter", "choose", "append"].includes(operation.name)) {
    const stage = operation.name === "logits" ? choice.stages[0] : choice.stages[choice.stages.length - 1];
    title.replaceChildren(...both("Result", "結果"));
    box.replaceChildren(
      ...(operation.name === "logits" || operation.name === "filter"
        ? choice.ids
            .slice(0, 4)
            .map((id, i) => el("div", {}, token(id), el("span", { class: "mono" }, `  p = ${probability(stage.p[i])}`)))
        : [el("div", {}, token(choice.chosen), el("span", { class: "id" }, `  id ${choice.chosen}`))]),
    );
  } else {
    title.replaceChildren(...both("Values", "値"));
    box.replaceChildren(
      ...(operation.point
        ? both(
            "not recorded: this model has no such trace point",
            "記録なし（このモデルには該当するトレースポイントがありません）",
          )
        : both("the results of its inputs, joined", "入力の結果をそのまま並べたもの")),
    );
  }
}

function showSource(operation) {
  const layer = page.layers.indexOf(selection.layer);
  const quoted = operation.quotes[layer];
  if (quoted === null) {
    $("source-name").replaceChildren(
      ...both(
        "No Python source was found for this part of the model.",
        "モデルのこの部分には、Python のソースが見つかりません。",
      ),
    );
    $("source").replaceChildren();
    return;
  }
  const source = page.sources[quoted[0]];
  const highlighted = quoted[1];
  $("source-name").replaceChildren(`${source.file} · ${source.name}`);
  if (!source.is_llama)
    $("source-name").append(
      ...both(
        " – this model replaces Llama’s function, so the equation may not hold",
        "（このモデルは Llama の関数を置き換えているため、上の式は成り立たないことがあります）",
      ),
    );
  if (page.fused[layer] && source.name === "attend_eager")
    $("source-name").append(
      ...both(
        " – written out; the run used attend_sdpa, which fuses these steps",
        "（書き下した形。この実行では、同じ計算をまとめて行う attend_sdpa が使われました）",
      ),
    );
  const lines = source.lines.map((line, i) => el("span", { class: highlighted.includes(i) ? "on" : "" }, line || " "));
  $("source").replaceChildren(...lines);
  const first = lines[highlighted[0] ?? 0];
  $("source").scrollTop = Math.max(0, first.offsetTop - $("source").offsetTop - 60);
}

// Charts with a logarithmic axis

function logChart(box, columns, lines, labels) {
  const width = Math.max(280, box.clientWidth);
  const height = 250;
  const [left, right, top, bottom] = [46, 12, 10, 30];
  const all = lines.flatMap((line) => line.values).filter((x) => x > 0 && Number.isFinite(x));
  const low = Math.floor(Math.log10(Math.min(...all)) * 2) / 2;
  const high = Math.max(low + 0.5, Math.ceil(Math.log10(Math.max(...all)) * 2) / 2);
  const x = (i) => left + ((width - left - right) * i) / Math.max(1, columns - 1);
  const y = (value) =>
    top + (height - top - bottom) * (1 - (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low));
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  for (let power = Math.ceil(low); power <= high; power++)
    for (const digit of [1, 3]) {
      const value = digit * 10 ** power;
      if (Math.log10(value) > high) continue;
      chart.append(
        svg("line", { x1: left, x2: width - right, y1: y(value), y2: y(value), stroke: "var(--line)" }),
        svg("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, String(Number(value.toPrecision(2)))),
      );
    }
  const every = Math.ceil(columns / Math.max(2, (width - left) / 46));
  for (let i = 0; i < columns; i += every)
    chart.append(svg("text", { x: x(i), y: height - 8, "text-anchor": i ? "middle" : "start" }, labels(i)));
  for (const { values, colour, stroke, opacity, dots, dash } of lines) {
    const points = values.map((value, i) => [x(i), y(value)]);
    chart.append(
      svg("path", {
        d: `M${points.map((p) => p.map((v) => v.toFixed(1)).join(" ")).join("L")}`,
        fill: "none",
        stroke: colour,
        "stroke-width": stroke ?? 1,
        opacity: opacity ?? 1,
        "stroke-dasharray": dash ?? "none",
        "stroke-linejoin": "round",
      }),
    );
    if (dots) for (const [cx, cy] of points) chart.append(svg("circle", { cx, cy, r: 3.2, fill: colour }));
  }
  box.replaceChildren(chart);
  return chart;
}

const STATES = ["embed_tokens", ...Array.from({ length: LAYERS }, (_, i) => `layers.${i}`)].map(
  (each) => `norm.${each}`,
);
const norms = (position) => STATES.map((state) => tensors[state].values[position]);
const parts = (part, position) =>
  Array.from({ length: LAYERS }, (_, i) => tensors[`norm.layers.${i}.${part}`]?.values[position] ?? NaN);
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
const swatch = (colour) => el("span", { class: "swatch", style: `border-color: ${colour}` });

function updateResidual() {
  if (!STATES.every((state) => tensors[state])) return;
  const shown = Array.from({ length: N }, (_, i) => i).filter((i) => N < 200 || i % Math.ceil(N / 200) === 0);
  const middle = STATES.map((state) => median(tensors[state].values));
  const chart = logChart(
    $("norms"),
    STATES.length,
    [
      ...shown.map((i) => ({ values: norms(i), colour: "var(--soft)", opacity: 0.16 })),
      { values: middle, colour: "var(--ink)", stroke: 2, dash: "5 4" },
      { values: norms(selection.token), colour: "var(--accent)", stroke: 2.5, dots: true },
    ],
    (i) => (i === 0 ? "embed" : String(i - 1)),
  );
  const end = norms(selection.token);
  name(
    chart,
    `The norm of token ${selection.token} grows from ${number(end[0])} to ${number(end[LAYERS])}`,
    `トークン ${selection.token} のノルムは ${number(end[0])} から ${number(end[LAYERS])} に変わります`,
  );
  $("norms-legend").replaceChildren(
    swatch("var(--accent)"),
    ...both("this token", "このトークン"),
    swatch("var(--ink)"),
    ...both("median", "中央値"),
    swatch("var(--line)"),
    ...both("every token", "各トークン"),
  );
  const [attention, mlp] = [parts("self_attn", selection.token), parts("mlp", selection.token)];
  if ([...attention, ...mlp].some((x) => x > 0)) {
    const second = logChart(
      $("parts"),
      LAYERS,
      [
        { values: attention, colour: "var(--attention)", stroke: 2, dots: true },
        { values: mlp, colour: "var(--mlp)", stroke: 2, dots: true },
      ].filter((line) => line.values.every((x) => !Number.isNaN(x))),
      String,
    );
    name(
      second,
      "Norms of the outputs of attention and MLP, layer by layer",
      "層ごとのアテンションと MLP の出力のノルム",
    );
  }
  $("parts-legend").replaceChildren(
    swatch("var(--attention)"),
    ...both("attention", "アテンション"),
    swatch("var(--mlp)"),
    ...both("MLP", "MLP"),
  );
  const row = (title, values) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, ...title),
      values.map((v) => el("td", { class: "number" }, v === null ? "" : number(v))),
    );
  $("norm-table").replaceChildren(
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("td"),
          STATES.map((_, i) => el("th", { scope: "col" }, ...layerOf(i))),
        ),
      ),
      el(
        "tbody",
        {},
        row(both("residual stream", "残差ストリーム"), end),
        row(both("attention adds", "アテンションの出力"), [null, ...attention]),
        row(both("MLP adds", "MLP の出力"), [null, ...mlp]),
      ),
    ),
  );
}

// The logit lens

const LENS_COLUMNS = 64;

function drawLens(begin) {
  const columns = Array.from({ length: Math.min(N, LENS_COLUMNS) }, (_, i) => begin + i);
  const cell = (row, position) => {
    const [id, p] = [at("lens.ids", row, position, 0), at("lens.p", row, position, 0)];
    const attributes = {
      class: id === page.ids[position + 1] ? "cell right" : "cell",
      style: `background: color-mix(in srgb, var(--accent) ${Math.round(p * 62)}%, transparent)`,
      title: `${piece(id)}  p = ${probability(p)}`,
      lang: "ja-JP",
      tabindex: -1,
      "data-row": row,
      "data-position": position,
      onclick: () => select({ lens: row, token: position }),
    };
    return el("td", { role: "gridcell" }, el("div", attributes, piece(id)));
  };
  const line = (title, cells) => el("tr", {}, el("th", { scope: "row" }, ...title), cells);
  const heading = (position) => el("th", { scope: "col", lang: "ja-JP", "data-position": position }, tokenAt(position));
  const end = (position) => el("td", { lang: "ja-JP" }, tokenAt(position + 1));
  const table = el(
    "table",
    { class: "lens", role: "grid", "data-begin": begin },
    el("thead", {}, line(both("after", "ここまで"), columns.map(heading))),
    el(
      "tbody",
      {},
      STATES.map((_, row) =>
        line(
          layerOf(row),
          columns.map((position) => cell(row, position)),
        ),
      ),
    ),
    el("tfoot", {}, line(both("the text", "実際の続き"), columns.map(end))),
  );
  $("lens-table").replaceChildren(name(table, "Logit lens: layers by tokens", "ロジットレンズ: 層 × トークン"));
}

function updateLens() {
  const scroller = $("lens-table");
  const begin = Math.max(0, Math.min(N - LENS_COLUMNS, selection.token - LENS_COLUMNS / 2));
  const focused = scroller.contains(document.activeElement);
  if (scroller.firstChild?.dataset.begin !== String(begin)) drawLens(begin);
  for (const each of scroller.querySelectorAll(".here")) {
    each.classList.remove("here");
    each.tabIndex = -1;
  }
  scroller.querySelector(`thead [data-position="${selection.token}"]`).classList.add("here");
  const current = scroller.querySelector(`[data-row="${selection.lens}"][data-position="${selection.token}"]`);
  current.classList.add("here");
  current.tabIndex = 0;
  if (focused) current.focus({ preventScroll: true });
  const offset = current.getBoundingClientRect().left - scroller.getBoundingClientRect().left;
  const covered = scroller.querySelector("th").offsetWidth; // by the sticky names of the layers
  if (offset < covered || offset + current.offsetWidth > scroller.clientWidth)
    scroller.scrollLeft += offset - scroller.clientWidth / 2;

  const top = Array.from({ length: tensors["lens.ids"].shape[2] }, (_, k) => k);
  const { token: position, lens: row } = selection;
  const [p, rank] = [at("lens.next_p", row, position), at("lens.next_rank", row, position)];
  $("lens-detail").replaceChildren(
    ...both(
      `After ${tokenAt(position)}, ${row ? `layer ${row - 1}` : "the embedding"}: the token that follows, ${tokenAt(position + 1)}, has p = ${probability(p)} and rank ${rank + 1}.`,
      `「${tokenAt(position)}」の後、${row ? `層 ${row - 1}` : "埋め込み"}の時点では、実際に続く「${tokenAt(position + 1)}」の確率は ${probability(p)}、順位は ${rank + 1} 位です。`,
    ),
    bars(top.map((k) => [at("lens.ids", row, position, k), at("lens.p", row, position, k)])),
  );
}

function listenToLens() {
  $("lens-table").addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    const inside = (value, most) => Math.max(0, Math.min(most, value));
    select({ lens: inside(selection.lens + move[0], LAYERS), token: inside(selection.token + move[1], N - 1) });
  });
}

function bars(pairs, most = 1) {
  return el(
    "div",
    { class: "bars" },
    pairs.flatMap(([id, p]) => [
      token(id),
      el("span", { class: "mono" }, probability(p)),
      el("i", { style: `width: ${Math.min(100, (100 * p) / most)}%` }),
    ]),
  );
}

// Attention

const PATTERNS = {
  self: { en: "itself", ja: "自分自身", says: ["the token itself", "自分自身"] },
  previous: { en: "previous", ja: "直前", says: ["the previous token", "直前のトークン"] },
  first: { en: "first", ja: "先頭", says: ["the first token", "先頭のトークン"] },
  next: {
    en: "copies next",
    ja: "次と同じ",
    says: ["earlier copies of the token that comes next", "次に来るトークンと同じ、前のトークン"],
  },
  copies: { en: "copies", ja: "同じトークン", says: ["earlier copies of the same token", "前に出た同じトークン"] },
  after: {
    en: "after a copy",
    ja: "同じものの次",
    says: ["the tokens after earlier copies", "前に出た同じトークンの次"],
  },
};
const NAMED = 0.3; // the least mean weight that gives a head its name

const statistic = (layer, head, name) => at(`heads.${layer}`, page.heads.indexOf(head), page.statistics.indexOf(name));

// The pattern with the largest weight; null for a single token.
function patternOf(layer, head) {
  let best = null;
  for (const each of Object.keys(PATTERNS)) {
    const value = statistic(layer, head, each);
    if (!Number.isNaN(value) && (best === null || value > best.value)) best = { name: each, value };
  }
  return best;
}

let heat = []; // 256 colours
function readHeat() {
  const style = getComputedStyle(document.documentElement);
  const stops = [0, 1, 2].map((i) => style.getPropertyValue(`--heat-${i}`).trim().split(/\s+/).map(Number));
  heat = Array.from({ length: 256 }, (_, i) => {
    const [from, to, share] = i < 128 ? [stops[0], stops[1], i / 128] : [stops[1], stops[2], (i - 128) / 127];
    return from.map((c, k) => Math.round(c + (to[k] - c) * share));
  });
}
const colourOf = (weight) => heat[Math.min(255, Math.round(Math.sqrt(weight) * 255))];

function paint(canvas, tensor, head, background) {
  canvas.width = canvas.height = N;
  const context = canvas.getContext("2d");
  const image = context.createImageData(N, N);
  for (let i = 0; i < N; i++)
    for (let j = 0; j <= i; j++) {
      const [r, g, b] = colourOf(weightAt(tensor, head, i, j));
      image.data.set([r, g, b, 255], 4 * (i * N + j));
    }
  context.putImageData(image, 0, 0);
}

const hasAttention = () => page.layers.some((layer) => tensors[`attention.${layer}`]);

let lazy = null;
function drawThumbs() {
  const box = $("thumbs");
  box.setAttribute("role", "listbox");
  name(box, "Attention heads", "アテンションヘッド");
  lazy = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        lazy.unobserve(target);
        paint(target, tensors[`attention.${target.dataset.layer}`], page.heads.indexOf(Number(target.dataset.head)));
      }
    },
    { rootMargin: "300px" },
  );
  for (const layer of page.layers) {
    if (!tensors[`attention.${layer}`]) continue;
    const row = el("div");
    for (const head of page.heads) {
      const canvas = el("canvas", { "data-layer": layer, "data-head": head, "aria-hidden": "true" });
      const pattern = patternOf(layer, head);
      const words = pattern ? both(PATTERNS[pattern.name].en, PATTERNS[pattern.name].ja) : [];
      const button = el(
        "button",
        {
          type: "button",
          role: "option",
          class: "thumb",
          "data-layer": layer,
          "data-head": head,
          onclick: () => select({ map: { layer, head } }),
        },
        canvas,
        el(
          "small",
          { class: pattern?.value >= NAMED ? "named" : "" },
          `L${layer} H${head}`,
          el("br"),
          ...words,
          el("br"),
          pattern ? pattern.value.toFixed(2) : "",
        ),
      );
      row.append(button);
      lazy.observe(canvas);
    }
    box.append(
      el(
        "div",
        { class: "thumb-row", role: "presentation" },
        el("span", {}, ...both(`layer ${layer}`, `層 ${layer}`)),
        row,
      ),
    );
  }
  arrows(box, () => [...box.querySelectorAll(".thumb")]);
}

function drawScale() {
  const canvas = el("canvas", { width: 256, height: 1, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  heat.forEach(([r, g, b], i) => {
    context.fillStyle = `rgb(${r} ${g} ${b})`;
    context.fillRect(i, 0, 1, 1);
  });
  const ticks = [0, 0.05, 0.25, 0.5, 1].map((w) => el("span", { style: `left: ${Math.sqrt(w) * 100}%` }, String(w)));
  $("scale").replaceChildren(
    el("span", {}, ...both("weight; the colour is its square root:", "重み（色は平方根に比例）:")),
    el("span", { class: "ticks" }, canvas, ticks),
  );
}

const map = { readout: $("map-readout") };
function drawMap() {
  const labels = 84;
  const room = Math.min(document.querySelector(".map-frame").clientWidth, 0.92 * window.innerHeight) - labels - 20;
  const least = N <= 80 ? 13 : N <= 160 ? 10 : 6; // below, the map scrolls
  map.cell = Math.max(least, Math.min(22, Math.floor(room / N)));
  const size = N * map.cell;
  map.every = Math.ceil(11 / map.cell); // cells for each label, which needs some eleven pixels
  const font = `font-size: ${Math.min(13, Math.max(10.5, map.cell - 2))}px`;
  const labelled = Array.from({ length: Math.ceil(N / map.every) }, (_, i) => i * map.every);
  const label = (position, style) => el("span", { style, lang: "ja-JP" }, tokenAt(position));
  const thickness = map.cell * map.every;
  map.columns = el(
    "div",
    { class: "columns", style: `height: ${labels}px; ${font}` },
    labelled.map((i) => label(i, `width: ${thickness}px; height: ${labels}px; justify-content: safe flex-end`)),
  );
  map.rows = el(
    "div",
    { class: "rows", style: `width: ${labels}px; ${font}` },
    labelled.map((i) => label(i, `height: ${thickness}px; line-height: ${thickness}px`)),
  );
  map.canvas = el("canvas", {
    style: `width: ${size}px; height: ${size}px; image-rendering: pixelated`,
    "aria-hidden": "true",
  });
  map.cross = el("div", { class: "cross", style: `width: ${map.cell}px; height: ${map.cell}px` });
  map.field = el("div", { style: "position: relative" }, map.canvas, map.cross);
  map.size = size;
  map.labels = labels;
  $("map").style.gridTemplateColumns = `${labels}px ${size}px`;
  $("map").replaceChildren(el("div", { class: "corner" }), map.columns, map.rows, map.field);
  map.inside = size >= 560 && labels + size <= document.querySelector(".map-frame").clientWidth; // no scrolling aside
  map.readout.className = `map-readout ${map.inside ? "inside" : "below"}`;
  (map.inside ? map.field : document.querySelector(".map-frame")).append(map.readout);
}

// The pointer only looks; a click or an arrow key selects for the whole page.
function listenToMap() {
  const cellAt = (event) => {
    const box = map.canvas.getBoundingClientRect();
    const place = [event.clientY - box.top, event.clientX - box.left].map((v) => Math.floor(v / map.cell));
    return place.every((v) => v >= 0 && v < N) && place[1] <= place[0] ? place : null;
  };
  $("map").addEventListener("mousemove", (event) => {
    const place = cellAt(event);
    if (place) updateMap(...place);
  });
  $("map").addEventListener("mouseleave", () => updateMap());
  $("map").addEventListener("click", (event) => {
    const place = cellAt(event);
    if (place) select({ token: place[0], key: place[1] });
  });
  $("map").addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    const row = Math.max(0, Math.min(N - 1, selection.token + move[0]));
    select({ token: row, key: Math.max(0, Math.min(row, selection.key + move[1])) });
    keepVisible(map.rows.children[Math.floor(row / map.every)], $("map-scroll"), map.labels);
  });
}

function updateMap(row = selection.token, column = selection.key) {
  const { layer, head } = selection.map;
  const tensor = tensors[`attention.${layer}`];
  if (!tensor) return;
  const index = page.heads.indexOf(head);
  const key = Math.min(column, row);
  choose($("thumbs"), $("thumbs").querySelector(`[data-layer="${layer}"][data-head="${head}"].thumb`));
  $("map-title").replaceChildren(...both(`Layer ${layer}, head ${head}`, `層 ${layer}、ヘッド ${head}`));
  if (map.painted !== `${layer} ${head}`) {
    paint(map.canvas, tensor, index);
    map.painted = `${layer} ${head}`;
    $("head-words").replaceChildren(...describeHead(layer, head));
  }
  map.cross.style.transform = `translate(${key * map.cell}px, ${row * map.cell}px)`;
  for (const [labels, on] of [
    [map.rows, row],
    [map.columns, key],
  ]) {
    markLabel(labels, on);
  }
  const weights = Array.from({ length: row + 1 }, (_, j) => [j, weightAt(tensor, index, row, j)]);
  const best = [...weights].sort((a, b) => b[1] - a[1]).slice(0, 6);
  map.readout.replaceChildren(
    el(
      "div",
      {},
      el("b", { lang: "ja-JP" }, tokenAt(row)),
      " → ",
      el("b", { lang: "ja-JP" }, tokenAt(key)),
      el("span", { class: "mono" }, `  ${weights[key][1].toFixed(4)}`),
    ),
    el(
      "div",
      { class: "note" },
      ...both(
        `Row ${row}, column ${key}. The largest weights of the row:`,
        `${row} 行 ${key} 列。この行で重みの大きいもの:`,
      ),
    ),
    el(
      "div",
      { class: "bars" },
      best.flatMap(([j, w]) => [
        el("span", { lang: "ja-JP" }, tokenAt(j)),
        el("span", { class: "mono" }, w.toFixed(4)),
        el("i", { style: `width: ${100 * w}%` }),
      ]),
    ),
  );
  if (map.inside) placeReadout(row);
  name(
    $("map"),
    `Attention map of layer ${layer}, head ${head}: ${tokenAt(row)} attends to ${tokenAt(key)} with weight ${weights[key][1].toFixed(4)}`,
    `層 ${layer}、ヘッド ${head} のアテンション: ${tokenAt(row)} から ${tokenAt(key)} への重み ${weights[key][1].toFixed(4)}`,
  );
}

// Colours the label of a row or column. Where one label stands for several, it becomes that of the marked one.
function markLabel(labels, position) {
  const index = Math.floor(position / map.every);
  const old = labels.querySelector(".on");
  if (old) {
    old.classList.remove("on");
    old.textContent = tokenAt([...labels.children].indexOf(old) * map.every);
  }
  labels.children[index].classList.add("on");
  labels.children[index].textContent = tokenAt(position);
}

// The read-out lies in the empty triangle, as near to its row as it can without covering a weight.
function placeReadout(row) {
  const { offsetWidth, offsetHeight, style } = map.readout;
  const left = map.size - offsetWidth - 6;
  const lowest = Math.floor(left / map.cell) * map.cell - offsetHeight - 4;
  style.left = `${left}px`;
  style.top = `${Math.max(4, Math.min(lowest, row * map.cell - offsetHeight))}px`;
}

function describeHead(layer, head) {
  const pattern = patternOf(layer, head);
  const numbers = (language) =>
    Object.entries(PATTERNS)
      .map(([each, words]) => [words.says[language === "ja" ? 1 : 0], statistic(layer, head, each)])
      .filter(([, value]) => !Number.isNaN(value))
      .map(([words, value]) => `${words} ${value.toFixed(2)}`)
      .join(language === "ja" ? "、" : ", ");
  const spread = statistic(layer, head, "spread").toFixed(1);
  const named = pattern?.value >= NAMED;
  const copy = clearestCopy(layer, head);
  const copied =
    copy?.value >= NAMED
      ? [
          ` Before ${piece(copy.id)}, it puts ${copy.value.toFixed(2)} of its weight on earlier ${piece(copy.id)}.`,
          `「${piece(copy.id)}」が次に来るとき、前に出た「${piece(copy.id)}」に重みの ${copy.value.toFixed(2)} を置きます。`,
        ]
      : ["", ""];
  return both(
    `${named ? `This head mostly attends to ${PATTERNS[pattern.name].says[0]}.` : `No pattern takes ${NAMED} of this head’s weight on average.`}${copied[0]} Mean weights: ${numbers("en")}. A row spreads over ${spread} tokens on average.`,
    `${named ? `このヘッドは主に${PATTERNS[pattern.name].says[1]}を見ます。` : `平均して重みの ${NAMED} 以上を占めるパターンはありません。`}${copied[1]}平均の重み: ${numbers("ja")}。1 行の重みは平均 ${spread} トークンに広がっています。`,
  );
}

function drawAttentionNote() {
  if (page.fused.some(Boolean))
    $("attention-note").replaceChildren(
      ...both(
        "The run used a fused kernel, which keeps no weights; they are computed from the same queries, keys and mask.",
        "この実行は融合カーネルを使い、重みを残しません。ここの重みは、同じクエリ・キー・マスクから別に計算したものです。",
      ),
    );
}

// Choices

function drawChoices() {
  const steps = $("steps");
  name(steps, "Tokens of the answer", "答えのトークン");
  page.choices.forEach(({ chosen }, step) => {
    steps.append(
      el(
        "button",
        { type: "button", role: "option", class: "new", lang: "ja-JP", onclick: () => select({ step }) },
        piece(chosen),
      ),
    );
  });
  arrows(steps, () => [...steps.children]);
  const filters = page.choices[0]?.stages.length - 1;
  $("choices-lead").replaceChildren(
    ...both(
      filters
        ? "The first column is the model’s own distribution. Each further column is the distribution after one more filter, in the order in which they ran. Choose a step."
        : "No filter was used: the model’s own distribution decides. Choose a step.",
      filters
        ? "左端の列はモデルそのものの分布です。右へ進むごとに、フィルターを一つずつ、実行された順に掛けた後の分布を示します。ステップを選んでみてください。"
        : "フィルターは使われていません。モデルの分布がそのまま次のトークンを決めます。ステップを選んでみてください。",
    ),
  );
}

function updateChoice() {
  const choice = page.choices[selection.step];
  if (!choice) return;
  choose($("steps"), $("steps").children[selection.step]);
  const head = ({ option, value }) => {
    const words = option.replaceAll("_", "_\u200b"); // may break there
    const title = option ? [el("code", {}, value === null ? words : `${words} ${value}`)] : both("model", "モデル");
    return el("th", { scope: "col" }, ...title);
  };
  const cell = (stage, i) => {
    const p = stage.p[i];
    const gone = p === 0 && stage.kept < page.sizes.V;
    return el(
      "td",
      { class: `number bar-cell${gone ? " gone" : ""}` },
      ...(gone ? both("removed", "除外") : [probability(p)]),
      el("i", { style: `width: ${p * 100}%` }),
    );
  };
  $("choice-table").replaceChildren(
    el(
      "table",
      { class: "choice" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, ...both("token", "トークン")), choice.stages.map(head))),
      el(
        "tbody",
        {},
        choice.ids.map((id, i) =>
          el(
            "tr",
            { class: id === choice.chosen ? "chosen" : "" },
            el("th", { scope: "row" }, token(id)),
            choice.stages.map((stage) => cell(stage, i)),
          ),
        ),
      ),
      el(
        "tfoot",
        {},
        el(
          "tr",
          {},
          el("th", { scope: "row" }, ...both("tokens left", "残る数")),
          choice.stages.map((stage) => el("td", { class: "number" }, grouped(stage.kept))),
        ),
      ),
    ),
  );
  const last = choice.stages[choice.stages.length - 1];
  const p = last.p[choice.ids.indexOf(choice.chosen)];
  const seed = page.seed === null ? ["", ""] : [` with seed ${page.seed}`, `（シード ${page.seed}）`];
  $("choice-words").replaceChildren(
    ...(page.sampled
      ? both(
          `Sampled${seed[0]}: ${piece(choice.chosen)}, which had p = ${probability(p)}.`,
          `サンプリングで選ばれたトークン${seed[1]}: ${piece(choice.chosen)}。確率は ${probability(p)} でした。`,
        )
      : both(
          `Greedy decoding: ${piece(choice.chosen)} is the most probable token, p = ${probability(p)}.`,
          `貪欲法: 最も確率の高い ${piece(choice.chosen)} を選びました。確率は ${probability(p)} です。`,
        )),
  );
}

// The cache

function drawCache() {
  const { K, D } = page.sizes;
  const each = 2 * LAYERS * K * D * page.model.item_size;
  const total = each * N;
  const work = page.calls.reduce((sum, [, S]) => sum + S, 0);
  const done = page.calls.reduce((sum, [T]) => sum + T, 0);
  $("cache-lead").replaceChildren(
    ...both(
      `One token takes 2 × ${LAYERS} layers × ${K} heads × ${D} numbers × ${page.model.item_size} bytes = ${grouped(each)} bytes; ${N} tokens take ${grouped(total)}. In ${page.calls.length} ${page.calls.length > 1 ? "calls" : "call"}, the model computed ${grouped(done)} positions; without the cache it would have been ${grouped(work)}.`,
      `1 トークンあたり 2 × ${LAYERS} 層 × ${K} ヘッド × ${D} 個 × ${page.model.item_size} バイト = ${grouped(each)} バイト、${N} トークンで ${grouped(total)} バイトです。モデルは ${page.calls.length} 回呼ばれ、合わせて ${grouped(done)} 個の位置を計算しました。キャッシュがなければ ${grouped(work)} 個です。`,
    ),
  );
  const box = $("cache-chart");
  const width = Math.max(280, box.clientWidth);
  const [height, left, bottom] = [170, 46, 26];
  const most = Math.max(...page.calls.map(([, S]) => S));
  const step = Math.min(48, (width - left) / page.calls.length);
  const y = (tokens) => (height - bottom - 10) * (tokens / most);
  const chart = name(
    svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" }),
    `The cache grows from ${page.calls[0][1]} to ${N} tokens in ${page.calls.length} calls`,
    `キャッシュは ${page.calls.length} 回の呼び出しで ${page.calls[0][1]} から ${N} トークンに増えます`,
  );
  for (const tokens of [0, Math.round(most / 2), most])
    chart.append(
      svg("line", {
        x1: left,
        x2: width,
        y1: height - bottom - y(tokens),
        y2: height - bottom - y(tokens),
        stroke: "var(--line)",
      }),
      svg("text", { x: left - 7, y: height - bottom - y(tokens) + 4, "text-anchor": "end" }, String(tokens)),
    );
  page.calls.forEach(([T, S], i) => {
    const x = left + i * step + step * 0.12;
    const bar = { x, width: Math.max(1, step * 0.76) };
    const rect = svg(
      "g",
      {},
      svg("title", {}, `call ${i}: ${T} new, ${S} in the cache / 呼び出し ${i}: 新規 ${T}、合計 ${S}`),
      svg("rect", { ...bar, y: height - bottom - y(S - T), height: y(S - T), fill: "var(--mlp)", opacity: 0.35 }),
      svg("rect", { ...bar, y: height - bottom - y(S), height: Math.max(1.5, y(T)), fill: "var(--accent)" }),
    );
    chart.append(rect);
    if (i % Math.ceil(20 / step) === 0)
      chart.append(svg("text", { x: x + bar.width / 2, y: height - 8, "text-anchor": "middle" }, String(i)));
  });
  box.replaceChildren(chart);
  const block = (colour) => el("span", { class: "swatch block", style: `background: ${colour}` });
  $("cache-legend").replaceChildren(
    block("var(--accent)"),
    ...both("computed in this call", "この呼び出しで計算"),
    block("color-mix(in srgb, var(--mlp) 35%, transparent)"),
    ...both("taken from the cache", "キャッシュから取得"),
    ...(page.drafts.length
      ? both("; rejected draft tokens are removed again", "（棄却されたドラフトトークンは取り除かれます）")
      : []),
  );
}

function drawDrafts() {
  if (!page.drafts.length) return;
  $("drafts").hidden = false;
  let [accepted, drafted] = [0, 0];
  for (const { position, tokens } of page.drafts) {
    const item = el("li", { lang: "ja-JP" });
    let running = true;
    tokens.forEach((id, i) => {
      running = running && page.ids[position + i] === id;
      accepted += running;
      drafted += 1;
      item.append(el("b", { class: running ? "yes" : "no" }, `${running ? "✓ " : "✗ "}${piece(id)}`));
    });
    item.append(el("span", { class: "note" }, ...both(` from position ${position}`, ` 位置 ${position} から`)));
    $("draft-list").append(item);
  }
  $("drafts-lead").replaceChildren(
    ...both(
      `A cheap source proposed tokens, and one call of the model verified all of them. It accepted ${accepted} of ${drafted}; the others are crossed out.`,
      `安価な方法で先のトークンを提案し、モデルを 1 回呼んでまとめて検証します。${drafted} 個のうち ${accepted} 個が受理され、残り（取り消し線）は棄却されました。`,
    ),
  );
}

// The selection

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

// The token that a head copies most clearly: before it comes again, the mean weight on its earlier places.
function clearestCopy(layer, head) {
  const tensor = tensors[`attention.${layer}`];
  const index = page.heads.indexOf(head);
  const places = new Map();
  page.ids.forEach((id, position) => places.set(id, [...(places.get(id) ?? []), position]));
  let best = null;
  for (const [id, all] of places) {
    let value = 0;
    for (const [n, place] of all.entries())
      for (const key of all.slice(0, n)) value += weightAt(tensor, index, place - 1, key);
    value /= all.length - 1;
    if (all.length > 1 && (best === null || value > best.value)) best = { id, value };
  }
  return best;
}

// The page opens with the head that has the clearest pattern.
function selectClearestHead() {
  const clarity = (layer, head) => Math.max(patternOf(layer, head)?.value ?? 0, clearestCopy(layer, head)?.value ?? 0);
  const found = page.layers
    .filter((layer) => tensors[`attention.${layer}`])
    .flatMap((layer) => page.heads.map((head) => ({ layer, head, value: clarity(layer, head) })));
  selection.map = found.reduce((a, b) => (b.value > a.value ? b : a));
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
