"use strict";
// Decodes the tensors of the page, and checks each of them. Needs no document, so that a test can run it alone.
// Every tensor is {kind, shape, data, crc, sum}, as llama_jp/inspection/encoding.py writes it.

const STEPS = 65535; // of a weight or probability in 16 bits

// kind -> the bytes of a number, and a function that reads one
const KINDS = {
  unit16: { size: 2, read: (view, at) => view.getUint16(at, true) / STEPS },
  float32: { size: 4, read: (view, at) => view.getFloat32(at, true) },
  uint32: { size: 4, read: (view, at) => view.getUint32(at, true) },
};

function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return bytes;
}

const CRC_TABLE = Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) crc = CRC_TABLE[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

// The values of a tensor. Throws an Error that says which check failed.
function decode(tensor) {
  const kind = KINDS[tensor.kind];
  if (!kind) throw new Error(`unknown kind ${tensor.kind}`);
  const bytes = bytesOf(tensor.data);
  const count = tensor.shape.reduce((a, b) => a * b, 1);
  if (bytes.length !== count * kind.size) throw new Error(`${bytes.length} bytes in place of ${count * kind.size}`);
  if (crc32(bytes) !== tensor.crc) throw new Error("the checksum of the bytes differs");
  const view = new DataView(bytes.buffer);
  const values = new Float64Array(count);
  let sum = 0;
  let size = 0;
  for (let i = 0; i < count; i++) {
    const value = kind.read(view, i * kind.size);
    values[i] = value;
    if (!Number.isFinite(value)) continue;
    const weight = (Math.imul(i, 40503) & 0xffff) / 0x10000;
    sum += weight * value;
    size += weight * Math.abs(value);
  }
  // both are float64 sums of the same numbers, in another order
  if (!(Math.abs(sum - tensor.sum) <= 1e-9 * (size + 1)))
    throw new Error(`the values sum to ${sum} in place of ${tensor.sum}`);
  return { shape: tensor.shape, values };
}

// All tensors by name, and a sentence for each that is wrong.
function decodeAll(tensors) {
  const decoded = {};
  const wrong = [];
  for (const [name, tensor] of Object.entries(tensors)) {
    try {
      decoded[name] = decode(tensor);
    } catch (error) {
      wrong.push(`${name}: ${error.message}`);
    }
  }
  return { decoded, wrong };
}

// The weight of query i on key j of one head, in a tensor (heads, triangle).
function weightAt(tensor, head, i, j) {
  return j > i ? 0 : tensor.values[head * tensor.shape[1] + (i * (i + 1)) / 2 + j];
}
