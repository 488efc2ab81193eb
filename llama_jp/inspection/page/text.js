// From text to ids.

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
