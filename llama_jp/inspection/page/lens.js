// The logit lens.

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
