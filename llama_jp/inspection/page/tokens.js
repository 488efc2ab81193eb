// Tokens and numbers as text, and the decoded tensors.

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
