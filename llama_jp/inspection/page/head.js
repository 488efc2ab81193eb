// The head of the page, and the result of its checks.

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
