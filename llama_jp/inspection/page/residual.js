// The residual stream: charts with a logarithmic axis.

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
