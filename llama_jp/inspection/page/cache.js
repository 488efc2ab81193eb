// The KV cache, and the draft tokens.

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
        x2: left + step * page.calls.length,
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
