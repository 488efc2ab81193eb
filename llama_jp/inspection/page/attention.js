// Attention: the thumbnails of all heads, and one large map.

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

function paintThumb(canvas) {
  const { layer, head } = canvas.dataset;
  paint(canvas, tensors[`attention.${layer}`], page.heads.indexOf(Number(head)));
}

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
        paintThumb(target);
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
