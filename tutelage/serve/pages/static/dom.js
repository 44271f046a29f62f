// What every page's script needs: strings, elements, requests.

/** The string catalogue in the page's language, by key. */
export const t = JSON.parse(document.body.dataset.texts);

/** The person's id: what is kept in the browser is kept apart for each. */
export const person = document.body.dataset.person;

/** A text with its {placeholders} filled. */
export const fill = (text, values) => text.replace(/\{(\w+)\}/g, (all, name) => values[name] ?? all);

/** An element. Properties are set as properties, those with a hyphen as attributes; `on` maps events to functions. */
export function el(name, { on = {}, ...properties } = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role") node.setAttribute(key, value);
    else node[key] = value;
  }
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const policy = window.trustedTypes?.createPolicy("rendered", { createHTML: (html) => html });

/** Show HTML that the server rendered, and only that: the server's cleaner is what makes it safe. */
export function setRendered(node, html) {
  node.innerHTML = policy ? policy.createHTML(html) : html;
}

/** Say something to people who see the page and to those who hear it. */
export function announce(text) {
  const news = document.getElementById("news");
  news.textContent = text;
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => (news.textContent = ""), 6000);
}

/** A name for a change, so that a repeated request is done once. randomUUID exists on https only. */
export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

/** Ask the server. Throws an Error with a sentence for people. A lost connection is tried again: keys make that safe. */
export async function call(method, path, body) {
  const headers = { "X-CSRF-Token": document.body.dataset.csrf };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  for (let attempt = 1; ; attempt++) {
    let response;
    try {
      response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    } catch (error) {
      if (attempt === 4) throw error;
      announce(t.connection_lost);
      await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** attempt));
      continue;
    }
    if (response.status === 401) location.assign("login");
    const reply = await response.json().catch(() => ({}));
    if (response.ok) return reply;
    throw new Error(reply.error ?? `${response.status}`);
  }
}

/** Run a handler; what goes wrong is said. Returns whether it went well. */
export async function attempt(work) {
  try {
    await work();
    return true;
  } catch (error) {
    announce(fill(t.went_wrong, { problem: error.message }));
    return false;
  }
}
