"use strict";
// Draws the page from its data. One selection (token, layer, head, operation, choice) drives every picture.

const page = JSON.parse(document.getElementById("data").textContent);
const { decoded: tensors, wrong } = decodeAll(page.tensors);
const N = page.ids.length - 1; // processed tokens: the last one is never an input
const LAYERS = page.model.layers;
const $ = (id) => document.getElementById(id);

const selection = {
  token: Math.min(page.prompt_length - 1, N - 1),
  layer: page.layers[0], // of the operations
  map: { layer: page.layers[0], head: page.heads[0] },
  key: 0, // the column of the map
  lens: LAYERS, // the row of the lens: 0 is the embedding
  operation: 0,
  step: 0,
};
