// The walk through the operations.

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
