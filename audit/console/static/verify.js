// A second check of a bundle, in a browser. It was written from verify/BUNDLE.md, tlog/record/FORMAT.md, c2sp.org/signed-note,
// tlog-checkpoint, tlog-cosignature and tlog-policy, and from RFC 6962, and shares no code with the first, which is tally-verify.
// SHA-256, Ed25519 and ECDSA are the browser's own (WebCrypto); nothing is fetched, kept or shown here.
//
// What is always true of it:
//
//   - what it says of a claim is true, false, or null: not proven here. A browser has no ML-DSA-44, for one. What is not proven is never
//     called true, and a bundle in which anything is null does not hold;
//   - nothing is believed but the keys of the policy;
//   - it throws for a policy that is none, and for no bundle, whatever that may be.

/** The largest bundle that is checked here, in bytes. The format allows more: tally-verify reads those. */
export const MAX_BUNDLE = 256 << 20;

const FORMAT = "tallystick-bundle/v1";
const HEAD = 93; // bytes of the first line
const MAX_ENTRY = 4096;
const MAX_ENTRIES = 1 << 20;
const MAX_PROOF = 63;
const MAX_FIELDS = 64;
const MAX_VALUE = 192 << 20;
const MAX_NUMBER = (1n << 63n) - 1n;
const MAX_NOTE = 64 << 10;
const MAX_POLICY = 1 << 20;
const MAX_SIGNATURES = 100;
const MAX_FALSE = 1000; // whoever has read so many needs no more
const SKEW = 300n * 1_000_000_000n; // nanoseconds by which clocks may be apart

// Bytes, text and hashes. A hash is handled as its text, which is the only one it has, so that === compares.

const utf8 = new TextEncoder();

/** The text of UTF-8; null for other bytes. */
function decode(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

function binary(bytes) { // one character for each byte
  let s = "";
  for (let i = 0; i < bytes.length; i += 8192) s += String.fromCharCode(...bytes.subarray(i, i + 8192));
  return s;
}

function fromBinary(s) {
  const out = new Uint8Array(s.length);
  for (let i = 0; i < s.length; i++) out[i] = s.charCodeAt(i);
  return out;
}

/** Standard base64 of bytes. */
export const toBase64 = (bytes) => btoa(binary(bytes));

/** The bytes of standard base64 in its one spelling; null for any other text. */
export function fromBase64(text) {
  let s;
  try {
    s = atob(text);
  } catch {
    return null;
  }
  return btoa(s) === text ? fromBinary(s) : null; // atob passes over white space, missing padding and loose bits
}

function hashBytes(text) {
  const b = text.length === 44 ? fromBase64(text) : null;
  return b?.length === 32 ? b : null;
}

function join(...parts) {
  const out = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) {
    out.set(p, at);
    at += p.length;
  }
  return out;
}

const sha256 = async (bytes) => new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));

/** SHA-256 of bytes in lower-case hexadecimal digits, as sha256sum prints it. */
export async function fingerprint(bytes) {
  return [...await sha256(bytes)].map((b) => b.toString(16).padStart(2, "0")).join("");
}

const LEAF = Uint8Array.of(0), NODE = Uint8Array.of(1);
const leafHash = async (bytes) => toBase64(await sha256(join(LEAF, bytes)));
const nodeHash = async (left, right) => toBase64(await sha256(join(NODE, fromBase64(left), fromBase64(right))));

/** The root over hashes of leaves (RFC 6962 §2.1); there is at least one. */
async function treeRoot(leaves) {
  if (leaves.length === 1) return leaves[0];
  let k = 1;
  while (k * 2 < leaves.length) k *= 2;
  return nodeHash(await treeRoot(leaves.slice(0, k)), await treeRoot(leaves.slice(k)));
}

/** The root that a path from a leaf leads to (RFC 9162 §2.1.3.2); null where there can be no such path. */
async function pathRoot(leaf, index, size, path) {
  if (index >= size) return null;
  let fn = index, sn = size - 1n, r = leaf;
  for (const p of path) {
    if (sn === 0n) return null;
    if (fn & 1n || fn === sn) {
      r = await nodeHash(p, r);
      while (!(fn & 1n) && fn !== 0n) {
        fn >>= 1n;
        sn >>= 1n;
      }
    } else {
      r = await nodeHash(r, p);
    }
    fn >>= 1n;
    sn >>= 1n;
  }
  return sn === 0n ? r : null;
}

function number(text) {
  if (!/^(?:0|[1-9][0-9]{0,18})$/.test(text)) return null;
  const n = BigInt(text);
  return n <= MAX_NUMBER ? n : null;
}

const showTime = (ns) => (ns / 1_000_000_000n > 253402300799n ? `${ns / 1_000_000_000n} s` : new Date(Number(ns / 1_000_000n)).toISOString());
const quote = (s) => JSON.stringify(s.length > 60 ? `${s.slice(0, 60)}…` : s);

/** What is wrong with something that is read, in words. */
class Wrong extends Error {}

// The policy (c2sp.org/tlog-policy).

/**
 * Reads a policy file.
 * @param {Uint8Array} bytes
 * @returns {Promise<{logs: Key[], witnesses: {name: string, key: Key}[], groups: object[], quorum: string}>}
 * @throws {Error} with the line that is wrong
 */
export async function parsePolicy(bytes) {
  if (bytes.length > MAX_POLICY) throw new Wrong(`a policy of ${bytes.length} bytes`);
  const text = binary(bytes); // names are octets
  const p = { logs: [], witnesses: [], groups: [], quorum: null };
  const named = new Set(["none"]), members = new Set(), keys = new Set();
  const define = (name) => {
    if (named.has(name)) throw new Wrong(`the name ${quote(name)} is taken`);
    named.add(name);
  };
  const key = async (vkey) => {
    const k = await parseKey(vkey);
    const ids = [`${k.name}+${k.id}`, `bytes ${toBase64(k.bytes)}`];
    if (ids.some((id) => keys.has(id))) throw new Wrong("the key is in the policy already");
    ids.forEach((id) => keys.add(id));
    return k;
  };
  const words = {
    async log(items) {
      if (items.length < 1 || items.length > 2) throw new Wrong("a log has a key and perhaps an address");
      const k = await key(items[0]);
      if (k.type === COSIGNATURE) throw new Wrong("the key is a witness's");
      address(items[1]);
      p.logs.push(k);
    },
    async witness(items) {
      if (items.length < 2 || items.length > 3) throw new Wrong("a witness has a name, a key and perhaps an address");
      define(items[0]);
      const k = await key(items[1]);
      if (k.type !== COSIGNATURE && k.type !== MLDSA) throw new Wrong("the key is a log's");
      address(items[2]);
      p.witnesses.push({ name: items[0], key: k });
    },
    group([name, how, ...of]) {
      if (of.length === 0) throw new Wrong("a group has a name, all, any or a number, and a member");
      const k = how === "all" ? of.length : how === "any" ? 1 : /^[1-9][0-9]{0,8}$/.test(how) ? Number(how) : 0;
      if (k < 1 || k > of.length) throw new Wrong(`${quote(how)} of ${of.length} members`);
      for (const m of of) {
        if (m === "none" || !named.has(m)) throw new Wrong(`${quote(m)} is not defined before`);
        if (members.has(m)) throw new Wrong(`${quote(m)} is a member already`);
        members.add(m);
      }
      define(name);
      p.groups.push({ name, k, of });
    },
    quorum(items) {
      if (items.length !== 1 || p.quorum !== null) throw new Wrong("a policy has one quorum, which is one name");
      if (!named.has(items[0])) throw new Wrong(`${quote(items[0])} is not defined before`);
      p.quorum = items[0];
    },
  };
  const lines = text.split("\n");
  if (lines.pop() !== "") throw new Wrong("the last line of the policy has no line break: the file may be cut off");
  for (const [i, line] of lines.entries()) {
    try {
      if (/[\x00-\x08\x0b-\x1f\x7f]/.test(line)) throw new Wrong("a control character");
      const [word, ...items] = line.split(/[ \t]+/).filter((s) => s !== "");
      if (word === undefined || word.startsWith("#")) continue;
      if (!Object.hasOwn(words, word)) throw new Wrong(`${quote(word)} is no word of a policy`);
      await words[word](items);
    } catch (e) {
      throw new Wrong(`line ${i + 1} of the policy: ${e.message}`);
    }
  }
  if (p.quorum === null) throw new Wrong("the policy has no quorum");
  return p;
}

function address(url) {
  if (url?.startsWith("#")) throw new Wrong("a comment stands on a line of its own");
}

/** Whether the witnesses whose names are in the set are the policy's quorum. */
function met(policy, names) {
  const ok = new Set(names);
  for (const g of policy.groups) {
    if (g.of.filter((m) => ok.has(m)).length >= g.k) ok.add(g.name);
  }
  return policy.quorum === "none" || ok.has(policy.quorum);
}

// Notes and keys (c2sp.org/signed-note, tlog-checkpoint, tlog-cosignature).

const ED25519 = 1, ECDSA = 2, COSIGNATURE = 4, MLDSA = 6; // types of keys
const SIZES = { [ED25519]: 32, [ECDSA]: 91, [COSIGNATURE]: 32, [MLDSA]: 1312 };

const isKeyName = (s) => s !== "" && !/[+\p{White_Space}]/u.test(s);

/** Reads a verifier key, given as octets. */
async function parseKey(octets) {
  const [name, id, ...rest] = (decode(fromBinary(octets)) ?? "").split("+");
  const raw = fromBase64(rest.join("+")); // base64 has plus signs too
  if (!isKeyName(name) || !/^[0-9a-f]{8}$/.test(id ?? "") || !raw?.length) throw new Wrong("no verifier key");
  const type = raw[0], bytes = raw.subarray(1);
  if (SIZES[type] === undefined) throw new Wrong(`the key has the type ${type}, which is not known`);
  if (bytes.length !== SIZES[type]) throw new Wrong(`the key has ${bytes.length} bytes, and its type ${SIZES[type]}`);
  const sum = await sha256(type === ECDSA ? bytes : join(utf8.encode(`${name}\n`), raw));
  if (hex4(sum) !== id) throw new Wrong(`the key's id is ${hex4(sum)} and not ${id}`);
  return { name, id, type, bytes };
}

const hex4 = (b) => [...b.subarray(0, 4)].map((x) => x.toString(16).padStart(2, "0")).join("");

/** Takes a signed checkpoint apart; nothing of it is verified. */
function parseNote(text) {
  if (utf8.encode(text).length > MAX_NOTE) throw new Wrong("a note of more than 64 KiB");
  if (/[\x00-\x09\x0b-\x1f]/.test(text)) throw new Wrong("a note with a control character");
  const gap = text.lastIndexOf("\n\n");
  if (gap < 0) throw new Wrong("a note without signatures");
  const body = text.slice(0, gap + 1);
  const lines = text.slice(gap + 2).split("\n");
  if (lines.pop() !== "" || lines.length === 0 || lines.length > MAX_SIGNATURES) throw new Wrong("a note whose signatures are none, cut off, or too many");
  const signatures = lines.map((line) => {
    const [, name, b64] = /^\u2014 ([^ ]+) ([^ ]+)$/.exec(line) ?? [];
    const raw = name && isKeyName(name) ? fromBase64(b64) : null;
    if (!raw || raw.length < 5) throw new Wrong("a signature that is not a name and base64");
    return { name, id: hex4(raw), bytes: raw.subarray(4) };
  });
  const parts = body.slice(0, -1).split("\n");
  const [origin, sizeText, root] = parts;
  if (parts.length < 3 || parts.includes("")) throw new Wrong("a checkpoint of fewer than three lines, or with an empty one");
  if (!isKeyName(origin) || /\p{Cc}/u.test(origin) || utf8.encode(origin).length > 255) throw new Wrong("an origin that can be none");
  const size = number(sizeText);
  if (size === null) throw new Wrong("a size that is no number");
  if (!hashBytes(root)) throw new Wrong("a root that is no hash");
  if (size === 0n && root !== "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=") throw new Wrong("a root of nothing that is not that of nothing");
  return { body, signatures, origin, size, root };
}

/**
 * Whether a signature is by a key over a note's text: true, false, or null where this browser cannot tell. The time is that which a
 * cosignature states, in seconds.
 */
async function verifySignature(key, body, signature) {
  const message = utf8.encode(body);
  switch (key.type) {
    case ED25519:
      return { ok: await ed25519(key.bytes, signature, message) };
    case ECDSA:
      return { ok: await ecdsa(key.bytes, signature, message) };
    default: { // a time, and what is signed together with it
      if (signature.length !== 8 + (key.type === MLDSA ? 2420 : 64)) return { ok: false };
      const time = new DataView(signature.buffer, signature.byteOffset).getBigUint64(0);
      if (time === 0n || time > MAX_NUMBER) return { ok: false };
      if (key.type === MLDSA) return { ok: null, time };
      const head = utf8.encode(`cosignature/v1\ntime ${time}\n`);
      return { ok: await ed25519(key.bytes, signature.subarray(8), join(head, message)), time };
    }
  }
}

async function ed25519(key, signature, message) {
  if (signature.length !== 64) return false;
  let k;
  try {
    k = await crypto.subtle.importKey("raw", key, "Ed25519", false, ["verify"]);
  } catch (e) {
    return e.name === "NotSupportedError" ? null : false;
  }
  return crypto.subtle.verify("Ed25519", k, signature, message);
}

async function ecdsa(spki, der, message) {
  // SEQUENCE { INTEGER r, INTEGER s } in DER; WebCrypto takes r and s, 32 bytes each.
  const integers = [];
  let at = 2;
  if (der.length < 8 || der.length > 72 || der[0] !== 0x30 || der[1] !== der.length - 2) return false;
  for (let i = 0; i < 2; i++) {
    const n = der[at + 1], v = der.subarray(at + 2, at + 2 + n);
    if (der[at] !== 2 || n === undefined || v.length !== n || n < 1 || n > 33 || v[0] > 0x7f || (n > 1 && v[0] === 0 && v[1] < 0x80)) return false;
    const bare = v[0] === 0 ? v.subarray(1) : v;
    if (bare.length > 32) return false;
    integers.push(join(new Uint8Array(32 - bare.length), bare));
    at += 2 + n;
  }
  if (at !== der.length) return false;
  const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
  let k;
  try {
    k = await crypto.subtle.importKey("spki", spki, algorithm, false, ["verify"]);
  } catch {
    return null; // a policy with such a key should not have been read
  }
  return crypto.subtle.verify(algorithm, k, join(...integers), message);
}

/**
 * Judges a signed checkpoint by a policy, or by none, which is null.
 * @returns an object with the checkpoint where it could be read, the two verdicts, each { ok, detail }, the cosignatures that were
 * verified, and by when, in nanoseconds since 1970, the policy's quorum had seen it.
 */
async function judgeCheckpoint(text, policy) {
  let note;
  try {
    note = parseNote(text);
  } catch (e) {
    const no = { ok: false, detail: `not a signed checkpoint: ${e.message}` };
    return { checkpoint: null, signed: no, cosigned: no, cosignatures: [], strangers: [], by: null };
  }
  const out = { checkpoint: note, cosignatures: [], strangers: [], by: null };
  if (!policy) {
    out.signed = out.cosigned = { ok: null, detail: "there is no policy to judge it by" };
    return out;
  }
  const keyOf = (list, s) => list.find((k) => k.name === s.name && k.id === s.id);
  const logKeys = policy.logs.filter((k) => k.name === note.origin);
  const witnessKeys = policy.witnesses.map((w) => ({ ...w.key, witness: w.name }));
  let log = false, badLog = null, badWitness = null;
  const open = [];
  for (const s of note.signatures) {
    const key = keyOf(logKeys, s) ?? keyOf(witnessKeys, s);
    if (!key) {
      if (!keyOf(policy.logs, s)) out.strangers.push(`${s.name}+${s.id}`);
      continue;
    }
    const who = `${s.name}+${s.id}`;
    const { ok, time } = await verifySignature(key, note.body, s.bytes);
    if (ok === null) {
      open.push({ who, witness: key.witness, type: key.type });
    } else if (!ok) {
      if (key.witness === undefined) badLog ??= who;
      else badWitness ??= who;
    } else if (key.witness === undefined) {
      log = true;
    } else {
      out.cosignatures.push({ witness: key.witness, name: s.name, time });
    }
  }
  const cannot = (o) => `the signature by ${o.who} cannot be checked here: this browser has no ${o.type === MLDSA ? "ML-DSA-44" : "such signatures"}; use tally-verify`;
  const openLog = open.find((o) => o.witness === undefined), openWitness = open.find((o) => o.witness !== undefined);
  if (logKeys.length === 0) out.signed = { ok: false, detail: `the policy has no log ${quote(note.origin)}` };
  else if (badLog) out.signed = { ok: false, detail: `the signature by ${badLog} is not one of this checkpoint` };
  else if (openLog) out.signed = { ok: null, detail: cannot(openLog) };
  else if (!log) out.signed = { ok: false, detail: "the log has not signed it with a key of the policy" };
  else out.signed = { ok: true, detail: `of ${note.origin}, size ${note.size}` };

  const names = out.cosignatures.map((c) => c.witness), enough = met(policy, names);
  if (badWitness) { // one that is wrong rejects the whole note
    out.cosigned = { ok: false, detail: `the cosignature by ${badWitness} is not one of this checkpoint` };
    out.cosignatures = [];
  } else if (out.signed.ok === false) {
    out.cosigned = { ok: false, detail: "the log has not signed it" };
    out.cosignatures = [];
  } else if (openWitness) {
    out.cosigned = { ok: null, detail: cannot(openWitness) };
  } else if (!enough) {
    const missing = policy.witnesses.filter((w) => !names.includes(w.name)).map((w) => w.name);
    out.cosigned = { ok: false, detail: `the quorum ${quote(policy.quorum)} has not cosigned it; missing: ${missing.join(", ")}` };
  } else if (policy.quorum === "none") {
    out.cosigned = { ok: true, detail: "no witness was required" };
  } else {
    out.cosigned = { ok: true, detail: `by ${out.cosignatures.map((c) => `${c.name} at ${showTime(c.time * 1_000_000_000n)}`).join(", ")}` };
  }
  const inTime = out.cosignatures.toSorted((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0));
  if (inTime.length > 0 && (enough || !openWitness)) { // or else who cannot be checked may have seen it last
    let n = inTime.length;
    if (policy.quorum !== "none" && enough) {
      n = 1;
      while (!met(policy, inTime.slice(0, n).map((c) => c.witness))) n++;
    }
    out.by = inTime[n - 1].time * 1_000_000_000n;
  }
  return out;
}

// Entries (tlog/record/FORMAT.md §1 and §2).

const ID = "([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})";
const HASH = "([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)";
const NUMBER = "(0|[1-9][0-9]{0,18})";
const TIME = "([2-9][0-9]{3}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z)";

const ENTRY = new RegExp(
  "^\\{\"v\":1" +
  ",\"kind\":\"(start|stop|heartbeat|request|response|refused|policy|approval|access|erasure|gap)\"" +
  ",\"by\":\"([a-z0-9.-]{1,64})\"" +
  `,"boot":"${ID}","seq":${NUMBER},"time":"${TIME}"` +
  `(?:,"session":"${ID}")?` +
  `(?:,"prev":"${HASH}")?` +
  "(?:,\"outcome\":\"(complete|truncated|denied|client_gone|upstream_error|limit|internal|interrupted|waiting|resumed)\")?" +
  `(?:,"record":\\{"root":"${HASH}","fields":${NUMBER}\\})?` +
  `(?:,"payload":\\{"sha256":"${HASH}","size":${NUMBER}\\})?` +
  `(?:,"open":\\{"count":${NUMBER},"floor":${NUMBER},"shed":${NUMBER}\\})?` +
  `(?:,"gap":\\{"from":${NUMBER},"to":${NUMBER},"since":"${TIME}"\\})?` +
  "(?:,\"reason\":\"([a-z0-9_]{1,40})\")?" +
  "(?:,\"software\":\"([A-Za-z0-9._+/:()-]{1,64})\")?" +
  "(?:,\"mode\":\"(strict|overlap|open|none)\")?" +
  `(?:,"beat":${NUMBER})?` +
  `(?:,"promise":"${HASH}")?` +
  `(?:,"policy":${NUMBER})?` +
  "(?:,\"verdict\":\"(ask)\")?" +
  `(?:,"ask":\\{"tag":"${HASH}","until":"${TIME}"\\})?` +
  `(?:,"grant":"${HASH}")?` +
  "\\}$");

// What each kind must have, and what it may.
const KINDS = {
  start: [["software", "mode"], ["beat", "promise"]],
  stop: [["open"], ["reason"]],
  heartbeat: [["open"], []],
  request: [["session", "record", "payload"], ["policy", "verdict"]],
  response: [["session", "outcome", "record", "payload"], ["prev"]],
  refused: [["session", "record", "payload", "reason"], ["policy"]],
  policy: [["record"], ["payload"]],
  approval: [["session", "prev", "record", "payload"], ["reason", "ask", "grant"]],
  access: [["record", "payload"], ["session"]],
  erasure: [["session", "reason"], ["prev", "record", "payload"]],
  gap: [["gap", "reason"], []],
};

const NO_ID = "00000000-0000-0000-0000-000000000000";
const NO_HASH = `${"A".repeat(43)}=`;

/** Nanoseconds since 1970 of a time as entries spell it; null where there is no such day or hour. */
function entryTime(text) {
  const ms = Date.parse(`${text.slice(0, 19)}Z`);
  // What is there is written again as it was: 30 February is not, nor is 24:00:00.
  if (Number.isNaN(ms) || new Date(ms).toISOString().slice(0, 19) !== text.slice(0, 19)) return null;
  return BigInt(ms) * 1_000_000n + BigInt(text.slice(20, 26)) * 1000n;
}

/**
 * Reads an entry in its canonical form.
 * @param {string} text
 * @throws {Error}
 */
export function parseEntry(text) {
  if (text.length > MAX_ENTRY) throw new Wrong("an entry of more than 4096 bytes");
  const m = ENTRY.exec(text);
  if (!m) {
    if (/^\{"v":(?!1,)[0-9]+[,}]/.test(text)) throw new Wrong("an entry of another version of the format");
    throw new Wrong("not an entry in its canonical form");
  }
  const e = {
    kind: m[1], by: m[2], boot: m[3], seq: m[4], time: m[5], session: m[6], prev: m[7], outcome: m[8],
    record: m[9] && { root: m[9], fields: m[10] },
    payload: m[11] && { sha256: m[11], size: m[12] },
    open: m[13] && { count: m[13], floor: m[14], shed: m[15] },
    gap: m[16] && { from: m[16], to: m[17], since: m[18] },
    reason: m[19], software: m[20], mode: m[21], beat: m[22], promise: m[23], policy: m[24], verdict: m[25],
    ask: m[26] && { tag: m[26], until: m[27] },
    grant: m[28],
  };
  const numbers = (o, ...names) => {
    for (const name of names) {
      if (o?.[name] === undefined) continue;
      o[name] = number(o[name]);
      if (o[name] === null) throw new Wrong(`${name} is over 2^63-1`);
    }
  };
  numbers(e, "seq", "beat", "policy");
  numbers(e.record, "fields");
  numbers(e.payload, "size");
  numbers(e.open, "count", "floor", "shed");
  numbers(e.gap, "from", "to");
  for (const [name, time] of [["time", e.time], ["since", e.gap?.since], ["until", e.ask?.until]]) { // they compare as texts
    if (time !== undefined && entryTime(time) === null) throw new Wrong(`${name} is no time`);
  }
  const [must, may] = KINDS[e.kind];
  const parts = ["session", "prev", "outcome", "record", "payload", "open", "gap", "reason", "software", "mode", "beat", "promise", "policy", "verdict", "ask", "grant"];
  for (const part of parts) {
    if (e[part] === undefined && must.includes(part)) throw new Wrong(`an entry of the kind ${e.kind} without ${part}`);
    if (e[part] !== undefined && !must.includes(part) && !may.includes(part)) throw new Wrong(`an entry of the kind ${e.kind} with ${part}`);
  }
  const wrong = [
    [[e.boot, e.session].includes(NO_ID) || [e.prev, e.promise, e.ask?.tag, e.grant].includes(NO_HASH), "zeros where there is something"],
    [(e.kind === "start") !== (e.seq === 0n), "a start has the number 0, and nothing else has"],
    [e.record && (e.record.fields < 1n || e.record.fields > 64n), "a record of no fields, or more than 64"],
    [e.payload && (e.payload.size < 1n || e.payload.size > 268435456n), "a payload of no bytes, or more than 256 MiB"],
    [e.beat !== undefined && (e.beat < 1n || e.beat > 86400000n), "a beat of nothing, or of more than a day"],
    [e.payload && !e.record, "a payload and no record"],
    [e.open && e.open.count === 0n && e.open.floor !== 0n, "a floor below nothing"],
    [e.gap && (e.gap.from === 0n || e.gap.from > e.gap.to || e.seq !== e.gap.to + 1n || e.gap.since > e.time), "a gap that cannot be"],
    [e.policy !== undefined && (e.policy === 0n || e.policy >= e.seq), "a policy that comes later"],
    [e.ask && (e.reason !== undefined || e.ask.until <= e.time), "a question that is an answer, or is over before it is asked"],
    [e.kind === "approval" && (e.reason === "used") !== (e.grant !== undefined), "a use of no yes, or a yes that is not used"],
  ].find(([is]) => is);
  if (wrong) throw new Wrong(wrong[1]);
  e.at = entryTime(e.time);
  if (e.ask) e.ask.end = entryTime(e.ask.until);
  return e;
}

// The file (verify/BUNDLE.md).

const CONTROL = /[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]/;

/** Reads the body of a bundle, which has one spelling. What is not in it is thrown, as a Wrong. */
class Reader {
  at = 0;

  constructor(text) {
    this.text = text;
  }

  fail(what) {
    throw new Wrong(`character ${this.at} after the first line: ${what}`);
  }

  has(literal) {
    return this.text.startsWith(literal, this.at);
  }

  literal(literal) {
    if (!this.has(literal)) this.fail(`${quote(this.text.slice(this.at, this.at + 40))} where ${quote(literal)} stands in a bundle`);
    this.at += literal.length;
  }

  /** Reads what a sticky expression matches. */
  match(expression, what) {
    expression.lastIndex = this.at;
    const m = expression.exec(this.text);
    if (!m) this.fail(`${what} is missing`);
    this.at += m[0].length;
    return m[0];
  }

  list(item) {
    const out = [];
    for (;;) {
      out.push(item());
      if (!this.has(",")) return out;
      this.at++;
    }
  }

  quoted(max) {
    this.literal('"');
    const end = this.text.indexOf('"', this.at);
    if (end < 0 || end - this.at > max) this.fail("a string is too long, or has no end");
    const s = this.text.slice(this.at, end);
    this.at = end;
    this.literal('"');
    return s;
  }

  base64(max, what) {
    const b = fromBase64(this.quoted(max));
    if (!b) this.fail(`${what} is not standard base64`);
    return b;
  }

  hash() {
    const s = this.quoted(44);
    if (!hashBytes(s)) this.fail("a hash is not 32 bytes in base64");
    return s;
  }

  string() {
    this.literal('"');
    let end = this.at;
    for (;;) {
      end = this.text.indexOf('"', end);
      if (end < 0) this.fail("a string has no end");
      let slashes = 0;
      while (this.text[end - 1 - slashes] === "\\" && end - 1 - slashes >= this.at) slashes++;
      if (slashes % 2 === 0) break;
      end++;
    }
    const raw = this.text.slice(this.at, end);
    if (/[\t\n\r]/.test(raw) || CONTROL.test(raw)) this.fail("a string has a control character");
    const short = { '"': '"', "\\": "\\", n: "\n", r: "\r", t: "\t" };
    const out = raw.replace(/\\(.)/gsu, (_, c) => short[c] ?? this.fail('an escape other than \\" \\\\ \\n \\r \\t'));
    this.at = end + 1;
    return out;
  }

  /** Reads a JSON object of any spelling, and returns it as it stands there. */
  object() {
    let depth = 0, quoted = false, end = this.at;
    if (!this.has("{")) this.fail("an entry is missing");
    for (; end < this.text.length && end - this.at <= MAX_ENTRY; end++) {
      const c = this.text[end];
      if (quoted && c === "\\") end++;
      else if (c === '"') quoted = !quoted;
      else if (!quoted && c === "{") depth++;
      else if (!quoted && c === "}" && --depth === 0) break;
    }
    const s = this.text.slice(this.at, end + 1);
    if (utf8.encode(s).length > MAX_ENTRY || !isJSON(s)) this.fail("an entry is no JSON object, or over 4096 bytes");
    this.at = end + 1;
    return s;
  }

  bundle() {
    this.literal(`{"format":"${FORMAT}","origin":`);
    const origin = this.string();
    this.literal(',"checkpoint":');
    const checkpoint = this.string();
    this.literal(',"sessions":[');
    this.entries = 0;
    const sessions = this.list(() => this.session());
    this.literal("\n]}\n");
    if (this.at !== this.text.length) this.fail("something follows the end of the bundle");
    return { origin, checkpoint, sessions };
  }

  session() {
    this.literal('\n{"id":');
    const id = this.quoted(36);
    if (!new RegExp(`^${ID}$`).test(id) || id === NO_ID) this.fail("an id is none");
    this.literal(',"entries":[');
    const entries = this.list(() => this.entry());
    this.literal("\n]}");
    return { id, entries };
  }

  entry() {
    if (++this.entries > MAX_ENTRIES) this.fail(`there are more than ${MAX_ENTRIES} entries`);
    this.literal('\n{"index":');
    const index = number(this.match(/[0-9]{1,20}/y, "an index"));
    if (index === null) this.fail("an index is no number below 2^63 without leading zeros");
    this.literal(',"entry":');
    const text = this.object();
    this.literal(',"proof":[');
    const proof = this.has("]") ? [] : this.list(() => this.hash());
    if (proof.length > MAX_PROOF) this.fail(`a proof has more than ${MAX_PROOF} hashes`);
    this.literal('],"fields":[');
    let fields = [];
    if (!this.has("]")) {
      fields = this.list(() => this.field());
      this.literal("\n");
    }
    if (fields.length > MAX_FIELDS) this.fail(`a record has more than ${MAX_FIELDS} fields`);
    this.literal("]}");
    return { index, text, proof, fields };
  }

  field() {
    this.literal("\n");
    if (this.has('{"withheld":')) {
      this.literal('{"withheld":');
      const withheld = this.hash();
      this.literal("}");
      return { withheld };
    }
    this.literal('{"name":');
    const name = this.quoted(64);
    if (!/^[a-z0-9_.-]+$/.test(name)) this.fail("a name of a field is none");
    this.literal(',"salt":');
    const salt = this.base64(24, "a salt");
    if (salt.length !== 16) this.fail("a salt has not 16 bytes");
    let text = null, value;
    if (this.has(',"text":')) {
      this.literal(',"text":');
      text = this.string();
      value = utf8.encode(text);
    } else {
      this.literal(',"base64":');
      value = this.base64(Infinity, "a value");
      const t = decode(value);
      if (t !== null && !CONTROL.test(t)) this.fail(`the field ${name} is text and stands in base64`);
    }
    if (value.length > MAX_VALUE) this.fail(`the field ${name} is over the limit`);
    this.literal("}");
    return { name, salt, value, text };
  }
}

/** The log that a bundle says it is of, to find a policy by; undefined where it says none. Nothing vouches for it. */
export function originOf(bytes) {
  const start = new TextDecoder().decode(bytes.subarray(HEAD, HEAD + 1024));
  return /^\{"format":"tallystick-bundle\/v1","origin":"([^"\\]+)"/.exec(start)?.[1];
}

function isJSON(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

// The claims.

/** The claims that tally-verify judges of a whole log, or of other files, and that cannot be judged of a bundle. */
export const NOT_JUDGED = [
  "log-readable", "tiles-match", "root-matches", "history-consistent", "boots-ordered", "numbers-whole", "losses-declared",
  "sessions-finished", "heartbeat-true", "heartbeats-steady", "policy-named", "checkpoints-honoured",
];

/**
 * @typedef {{claim: string, subject: string, ok: boolean|null, detail: string}} Finding
 * ok is true where the claim holds, false where it does not, null where it is not proven here
 * @typedef {{verdict: "holds"|"refused"|"unreadable"|"not proven", findings: Finding[], notProven: string[], bundle: object|null}} Report
 * bundle is what was read, whether it holds or not: its sessions with their entries and fields
 */

/**
 * Checks a bundle.
 * @param {Uint8Array} bytes the file
 * @param {Awaited<ReturnType<typeof parsePolicy>>|null} policy null where there is none: then nothing is proven about the checkpoint
 * @returns {Promise<Report>}
 */
export async function checkBundle(bytes, policy) {
  if (!globalThis.crypto?.subtle) {
    throw new Error("this page did not come over HTTPS or from this machine, and so the browser lends it no cryptography: use tally-verify");
  }
  const r = new Judge();
  try {
    await r.check(bytes, policy);
  } catch (e) {
    if (!(e instanceof Enough)) throw e;
    r.notProven.push(`anything about what follows: more than ${MAX_FALSE} claims are false, and the rest was not judged`);
  }
  const has = (ok) => r.findings.some((f) => f.ok === ok);
  const verdict = r.unreadable ? "unreadable" : has(false) ? "refused" : has(null) || !r.bundle ? "not proven" : "holds";
  return { verdict, findings: r.findings, notProven: r.notProven, bundle: r.bundle };
}

class Enough extends Error {}

class Judge {
  findings = [];
  notProven = [];
  bundle = null;
  unreadable = false;
  wrong = 0;

  say(claim, subject, ok, detail = "") {
    this.findings.push({ claim, subject, ok, detail });
    if (ok === false && ++this.wrong > MAX_FALSE) throw new Enough();
  }

  async check(bytes, policy) {
    const b = await this.file(bytes);
    if (!b) return;
    this.bundle = b;
    const tree = await judgeCheckpoint(b.checkpoint, policy);
    if (tree.signed.ok && tree.checkpoint.origin !== b.origin) {
      tree.signed = { ok: false, detail: `it is of the log ${quote(tree.checkpoint.origin)}, and the bundle says ${quote(b.origin)}` };
    }
    this.say("checkpoint-signed", "checkpoint", tree.signed.ok, tree.signed.detail);
    this.say("checkpoint-cosigned", "checkpoint", tree.cosigned.ok, tree.cosigned.detail);
    const seen = new Set();
    for (const s of b.sessions) {
      for (const e of s.entries) await this.entry(e, tree.checkpoint);
    }
    const decisions = decide(b.sessions);
    for (const [i, s] of b.sessions.entries()) {
      this.session(s, tree, seen.has(s.id));
      seen.add(s.id);
      if (decisions[i]) this.approved(decisions[i]);
    }
    if (policy?.quorum === "none") this.notProven.push("that the log shows everybody the same tree: no witness was required");
    this.notProven.push(tree.by === null ? "when anything happened: no witness vouches for the writers' clocks"
      : `when an entry was written, but for the bound that cosignatures give: this checkpoint was seen by ${showTime(tree.by)}`);
    for (const s of tree.strangers.slice(0, 20)) this.notProven.push(`a signature by ${s}, whose key is not in the policy`);
    this.notProven.push("that what was written down is what happened: the log proves what the gateway wrote and that it has not been changed since");
    this.notProven.push("that the model behaved, or that it is the one that was asked for");
    this.notProven.push("that there are no other sessions, or later entries about these: check the whole log for that, with tally-verify log");
  }

  async file(bytes) {
    const unreadable = (why) => {
      this.unreadable = true;
      this.say("bundle-readable", "bundle", false, why);
    };
    if (bytes.length > MAX_BUNDLE) {
      this.say("bundle-readable", "bundle", null, `${bytes.length} bytes are too many to be checked here; use tally-verify`);
      return null;
    }
    const magic = `${FORMAT} sha256:`;
    if (binary(bytes.subarray(0, magic.length)) !== magic) return unreadable(`the file does not begin with ${quote(magic)}: it is not a bundle, or damaged`);
    if (bytes.length < HEAD || bytes[HEAD - 1] !== 0x0a) return unreadable("the first line is cut off, or was rewritten");
    const body = bytes.subarray(HEAD);
    const stated = binary(bytes.subarray(magic.length, HEAD - 1)), is = await fingerprint(body);
    this.say("bundle-intact", "bundle", stated === is,
      stated === is ? `${bytes.length} bytes` : "it has another digest than its first line says: it was changed or cut off after it was written");
    const text = decode(body);
    if (text === null) return unreadable("it is not UTF-8");
    let b;
    try {
      b = new Reader(text).bundle();
    } catch (e) {
      if (!(e instanceof Wrong)) throw e;
      if (!isJSON(text)) return unreadable(e.message);
      this.say("bundle-readable", "bundle", true, "it is JSON");
      this.say("bundle-canonical", "bundle", false, `${e.message}; nothing in it was judged: ask for the original`);
      return null;
    }
    this.say("bundle-readable", "bundle", true);
    this.say("bundle-canonical", "bundle", true);
    return b;
  }

  /** Judges an entry by itself, and adds to it what was read: its leaf, and as e.is what it states. */
  async entry(e, checkpoint) {
    const subject = e.subject = `entry ${e.index}`;
    e.leaf = await leafHash(utf8.encode(e.text));
    try {
      e.is = parseEntry(e.text);
      this.say("entry-canonical", subject, true, `${e.is.kind} by ${e.is.by} at ${e.is.time}`);
    } catch (err) {
      if (!(err instanceof Wrong)) throw err;
      e.is = null;
      this.say("entry-canonical", subject, false, err.message);
    }
    if (!checkpoint) {
      this.say("entry-in-tree", subject, false, "there is no checkpoint that it could be under");
    } else {
      const { origin, size, root } = checkpoint;
      const ok = await pathRoot(e.leaf, e.index, size, e.proof) === root;
      this.say("entry-in-tree", subject, ok, ok ? `of ${origin}, size ${size}` : `its proof does not lead to the root of ${origin} at size ${size}: entry, index, proof or checkpoint was changed`);
    }
    if (!e.is) {
      this.say("fields-match", subject, false, "it is no entry, and so commits to nothing");
      return;
    }
    const stated = e.is.record?.fields ?? 0n, withheld = e.fields.filter((f) => f.withheld).length;
    const why = await mismatch(e);
    this.say("fields-match", subject, why === null, why ?? `${e.fields.length - withheld} shown, ${withheld} withheld, ${stated} stated`);
    if (withheld > 0) this.notProven.push(`what stands in ${withheld} of ${e.fields.length} fields of ${subject}: they are withheld`);
    else if (stated > 0n && e.fields.length === 0) this.notProven.push(`what stands in the record of ${subject}: the bundle does not have it`);
  }

  /** Judges the entries of a session together. */
  session(s, tree, again) {
    const subject = `session ${s.id}`;
    const bad = s.entries.find((e) => !e.is);
    if (bad) {
      this.say("session-chain", subject, false, `${bad.subject} is no entry`);
      return;
    }
    const why = brokenChain(s) ?? (again ? "the bundle has this session twice" : null);
    this.say("session-chain", subject, why === null, why ?? `${s.entries.length} entries`);
    for (const e of s.entries) {
      if (e.is.kind === "erasure") this.notProven.push(`what stood in the records of ${subject} that are not shown here: ${e.subject} announces that they were erased at ${e.is.time} (${e.is.reason})`);
    }
    const end = s.entries.findLast((e) => e.is.kind === "response" || e.is.kind === "refused");
    this.say("session-complete", subject, end !== undefined,
      !end ? "it has no response: it had not ended, or its end was left out"
        : end.is.kind === "refused" ? `it was refused: ${end.is.reason}` : `it ended with ${end.subject} as ${end.is.outcome}`);
    const back = backwards(s.entries);
    this.say("times-ordered", subject, back === null, back ?? `from ${s.entries[0].is.time}`);
    if (tree.by === null) return;
    const late = s.entries.find((e) => e.is.at > tree.by + SKEW);
    this.say("times-bracketed", subject, !late,
      late ? `${late.subject} states ${late.is.time}, and witnesses had seen it by ${showTime(tree.by)}` : `seen by witnesses by ${showTime(tree.by)}`);
  }

  /** Judges whether a session that needed people's yes has one. */
  approved(d) {
    const subject = `session ${d.id}`;
    const say = (ok, detail) => this.say("approval-given", subject, ok, detail);
    if (d.wrong) return say(false, d.wrong);
    if (!d.asks && !d.from && !d.void) return; // none was needed
    const sent = sentAt(d.end);
    if (sent.wrong) return say(false, sent.wrong);
    if (!d.from) {
      if (!d.end) return; // that it has no end is told already
      if (sent.unclear) return say(null, sent.unclear);
      if (sent.at !== null) return say(false, `it ended as ${d.end.is.outcome} and used no yes that counts, and was sent at ${showTime(sent.at)} all the same`);
      return say(true, `it used no yes that counts, and ended as ${d.end.is.outcome}: nothing was sent`);
    }
    if (sent.unclear) return say(null, sent.unclear);
    const yes = d.from.answers.at(-1);
    const { wrong, open, who } = given(d, sent.at);
    if (wrong) return say(false, wrong);
    if (open) this.notProven.push(`who approved ${subject}, and that it was for the same call: not all records are shown`);
    say(true, open ? `it used the yes of ${yes.subject}` : `by ${who}, with ${yes.subject}, for this call, before it was sent`);
    this.notProven.push(`that whoever approved ${subject} may approve, or that no session outside of this bundle had used the same yes: check the whole log for that`);
  }
}

/** Says why what is shown and withheld is not the record that the entry commits to, or null. */
async function mismatch(e) {
  if (e.fields.length === 0) return null; // the record is not here: left out, or erased
  const names = new Set(), leaves = [];
  for (const f of e.fields) {
    if (f.withheld) {
      leaves.push(f.withheld);
      continue;
    }
    if (names.has(f.name)) return `two fields are named ${f.name}`;
    names.add(f.name);
    leaves.push(await leafHash(join(f.salt, Uint8Array.of(f.name.length), utf8.encode(f.name), f.value)));
  }
  const stated = e.is.record?.fields ?? 0n;
  if (BigInt(leaves.length) !== stated) return `there are ${leaves.length} fields and the entry states ${stated}`;
  const root = await treeRoot(leaves);
  return root === e.is.record.root ? null : `the fields hash to ${root} and the entry states ${e.is.record.root}: one was changed, or is of another record`;
}

/** Says why entries are not those of one session in order (verify/BUNDLE.md, session-chain), or null. */
function brokenChain({ id, entries }) {
  const stranger = entries.find((e) => e.is.session !== id);
  if (stranger) return `${stranger.subject} is not of this session`;
  for (let i = 1; i < entries.length; i++) {
    if (entries[i].index <= entries[i - 1].index) return `${entries[i].subject} stands after ${entries[i - 1].subject}`;
  }
  const [first, ...rest] = entries.filter((e, i) => i === 0 || e.is.kind !== "access");
  if (first.is.kind !== "request" && first.is.kind !== "refused") return `${first.subject}, its first, is a ${first.is.kind} entry`;
  let last = first, ended = first.is.kind === "refused";
  for (const e of rest) {
    const { kind, by, boot, seq, prev } = e.is;
    const ends = kind === "response";
    if (kind === "erasure") {
      if (!ended) return `${e.subject} erases before the session's end`;
    } else if (kind !== "approval" && !ends) {
      return `${e.subject} is a ${kind} entry and does not continue a session`;
    } else {
      if (ended) return `${e.subject} comes after the session's end`;
      if (by !== last.is.by) return `${e.subject} is by another writer than ${last.subject}`;
      if (boot === last.is.boot && seq <= last.is.seq) return `${e.subject} has no larger number than ${last.subject} before it`;
    }
    if (prev !== last.leaf && !(kind === "erasure" && prev === undefined)) return `${e.subject} does not refer to ${last.subject}, the session's entry before it`;
    ended ||= ends;
    last = e;
  }
  return null;
}

/** Says which entry states a time before that of an earlier one, but for what clocks may be apart, or null. */
function backwards(entries) {
  const boots = new Map();
  let latest = entries[0];
  for (const e of entries) {
    const same = boots.get(e.is.boot);
    const before = same && e.is.at < same.is.at ? same : e.is.at + SKEW < latest.is.at ? latest : null;
    if (before) return `${e.subject} states ${e.is.time}, before the ${before.is.time} of ${before.subject}`;
    boots.set(e.is.boot, e);
    if (e.is.at > latest.is.at) latest = e;
  }
  return null;
}

// Approvals (tlog/record/FORMAT.md §6.9).

// How a call can end of which nothing went to the model.
const UNSENT = ["denied", "waiting", "resumed", "client_gone", "limit", "internal", "interrupted"];

/**
 * What is shown of a field: { value, bytes, known }. Known is whether it is shown, or all is and it is not there; then value and bytes are
 * undefined. The value is to be read: of bytes that are no text it may look like that of others.
 */
function shown(e, name) {
  if (!e) return { known: false };
  const f = e.fields.find((f) => f.name === name);
  if (f) return { value: f.text ?? decode(f.value) ?? binary(f.value), bytes: f.value, known: true };
  return { known: e.fields.length > 0 && e.fields.every((f) => !f.withheld) };
}

/**
 * Goes through the approvals and responses of all sessions in the order of the log. It returns, for each session that needs a yes
 * or has approvals, what became of it, and else null.
 */
function decide(sessions) {
  const steps = [];
  const all = sessions.map((s) => {
    const d = { id: s.id, asks: false, question: null, answers: [], yes: null, ended: null, use: null, from: null, void: false, end: null, gone: false, wrong: null };
    const mine = [];
    for (const e of s.entries) {
      if (!e.is) d.wrong ??= `${e.subject} is no entry, and may have been an answer`;
      else if (e.is.kind === "request") {
        d.request = e;
        d.asks = e.is.verdict === "ask" || shown(e, "verdict").value === "ask";
      } else if (e.is.kind === "approval" || e.is.kind === "response") mine.push({ d, e });
    }
    if (!d.asks && !mine.some(({ e }) => e.is.kind === "approval")) return null;
    steps.push(...mine);
    return d;
  });
  steps.sort((a, b) => (a.e.index < b.e.index ? -1 : a.e.index > b.e.index ? 1 : 0));
  const yeses = new Map(); // by the leaf of the yes, who asked
  for (const { d, e } of steps) {
    const why = step(d, e, yeses);
    if (why) d.wrong ??= `${e.subject}: ${why}`;
  }
  return all;
}

/** Goes on with a session by one of its entries, and says why that cannot stand there, or null. */
function step(d, e, yeses) {
  const { kind, reason, ask, grant, outcome, at } = e.is;
  if (kind === "response") {
    d.end = e;
    d.gone = true; // what it asked has ended with it
    if (d.from || (!d.asks && !d.void) || UNSENT.includes(outcome)) return null;
    if (d.void) return `it ended as ${outcome}, and the yes that it used was used before, had ended, or is not in this bundle before it`;
    return `it ended as ${outcome}, needed a yes, and used none`;
  }
  if (d.from || d.void) return "an approval entry after the use of a yes";
  if (ask) {
    if (d.question || !d.asks) return "a question where one was asked before, or none is due";
    d.question = e;
    return null;
  }
  if (reason === "used") {
    const asked = yeses.get(grant);
    if (!asked || asked.gone || asked.ended) {
      d.void = true;
      d.use = e;
      return null;
    }
    if (asked !== d && d.question) return `people were asked in it, and it uses the yes that the session ${asked.id} got`;
    if (at >= asked.question.is.ask.end) return "a yes is used that was good no longer";
    asked.ended = "used";
    d.use = e;
    d.from = asked;
    return null;
  }
  if (!d.question) return d.asks ? "an answer where nothing was asked" : null; // or an entry of before there were questions
  if (reason === "expired") {
    if (d.ended === "denied" || d.ended === "expired") return "the end of a question that had ended";
    d.ended ??= "expired";
    return null;
  }
  if (!["agreed", "granted", "broke_glass", "denied"].includes(reason)) return "an approval entry that is neither a question nor an answer";
  if (d.ended || d.yes) return "an answer to a question that was answered or had ended";
  if (at >= d.question.is.ask.end) return "an answer after the question's end";
  if (reason === "denied") {
    d.ended = "denied";
    return null;
  }
  d.answers.push(e);
  if (reason !== "agreed") {
    d.yes = e.leaf;
    yeses.set(e.leaf, d);
  }
  return null;
}

/** Whether bytes are the same, or neither are there. */
const same = (a, b) => a === b || (a?.length === b?.length && a.every((x, i) => x === b[i]));

/** A text in small letters, each by itself as Go has it: in a browser a sigma looks at its neighbours, and a dotted I becomes two. */
const small = (text) => text?.replace(/[^\x00-\x7f]|[A-Z]/gu, (c) => String.fromCodePoint(c.toLowerCase().codePointAt(0)));

/** When a call was sent, by the record of its response: { at } in nanoseconds, null where it is not shown, or was not sent. */
function sentAt(end) {
  const { value } = shown(end, "times");
  if (value === undefined) return { at: null };
  let times;
  try {
    times = JSON.parse(value);
  } catch {
    times = undefined;
  }
  if (times === null || typeof times !== "object" || Array.isArray(times)) return { wrong: `the times of ${end.subject} cannot be read` };
  // As they stand there: an object has of two members of one name the last alone. Some readers fold a long s as well.
  const words = value.match(/"(?:[^"\\]|\\.)*"|:/gs) ?? [];
  const names = words.filter((w, i) => w !== ":" && words[i + 1] === ":").map((w) => JSON.parse(w)).filter((name) => name.toUpperCase() === "SENT");
  if (names.length === 0) return { at: null };
  if (names.length > 1 || names[0] !== "sent" || !Object.hasOwn(times, "sent")) return { unclear: `the times of ${end.subject} say in an unclear way when it was sent` };
  const at = typeof times.sent === "string" ? rfc3339(times.sent) : null;
  return at === null ? { wrong: `the times of ${end.subject} cannot be read` } : { at };
}

/** Nanoseconds since 1970 of an RFC 3339 time; null where it is none. */
function rfc3339(text) {
  const m = /^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]+))?(Z|[+-][0-9]{2}:[0-9]{2})$/.exec(text);
  const ms = m && entryTime(`${m[1]}.000000Z`) !== null ? Date.parse(m[1] + m[3]) : NaN; // there is such a day, and such an hour
  return Number.isNaN(ms) ? null : BigInt(ms) * 1_000_000n + BigInt((m[2] ?? "").slice(0, 9).padEnd(9, "0"));
}

/** What records show of the yes that a session used: { wrong } says why it cannot count, open that not everything is shown. */
function given(d, sent) {
  const a = d.from;
  let open = false;
  const names = new Set(), mails = new Set();
  for (const x of [a.request, d.request]) {
    const name = shown(x, "caller"), mail = shown(x, "caller.email");
    if (name.known && !name.value) return { wrong: `${x.subject} does not say whose call it is` };
    open ||= !name.known || !mail.known;
    if (name.value) names.add(name.value);
    if (mail.value) mails.add(small(mail.value));
  }
  const need = shown(a.question, "need");
  open ||= !need.known;
  if (need.known && !/^[1-9][0-9]{0,8}$/.test(need.value ?? "")) return { wrong: `the question, ${a.question.subject}, asks for ${quote(need.value ?? "")} people` };
  const who = [];
  for (const x of a.answers) {
    const name = shown(x, "actor"), mail = shown(x, "actor.email"), address = small(mail.value);
    if (name.known && !name.value) return { wrong: `${x.subject} does not say whose answer it is` };
    if (names.has(name.value) || (address && mails.has(address))) {
      return { wrong: `${x.subject} is an answer by the caller, or by one who said yes before: ${quote(name.value ?? address)}` };
    }
    open ||= !name.known || !mail.known;
    if (name.value) names.add(name.value);
    if (address) mails.add(address);
    who.push(quote(name.value ?? ""));
  }
  const glass = a.answers.at(-1).is.reason === "broke_glass";
  if (!glass && need.known && who.length < Number(need.value)) return { wrong: `${who.length} said yes, and ${need.value} were needed` };
  if (a !== d) {
    for (const name of ["caller", "route", "method", "target", "body"]) {
      const x = shown(a.request, name), y = shown(d.request, name);
      if (!x.known || !y.known) open = true;
      else if (!same(x.bytes, y.bytes)) return { wrong: `what was approved has another ${name} than what was sent` };
    }
  }
  const of = shown(d.use, "approval").value;
  if (of !== undefined && of !== a.id) return { wrong: `${d.use.subject} says that it uses the yes of ${quote(of)}, and uses that of the session ${a.id}` };
  if (sent !== null && sent < d.use.is.at - SKEW) return { wrong: `it was sent at ${showTime(sent)}, before the yes was used at ${d.use.is.time}` };
  return { open, who: who.join(" and ") + (glass ? ", who broke the glass" : "") };
}
