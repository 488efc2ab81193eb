// Elements in two languages, and lists of choices that the arrow keys move in.

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
