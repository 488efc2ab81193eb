// How each token was chosen.

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
