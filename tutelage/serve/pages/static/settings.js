import { announce, attempt, call, el, fill, t } from "./dom.js";

const preferences = document.getElementById("preferences");
const erase = document.getElementById("erase");
const makeKey = document.getElementById("make-key"); // none in one-user mode, where programs need no key

preferences.elements.theme.addEventListener("change", (event) => {
  document.documentElement.dataset.theme = event.target.value;
  document.cookie = `tutelage-theme=${event.target.value};max-age=31536000;samesite=lax`; // of this device
});

preferences.addEventListener("submit", (event) => {
  event.preventDefault();
  const { language } = preferences.elements;
  attempt(async () => {
    await call("POST", "data/preferences", { language: language.value });
    if (language.value === document.documentElement.lang.slice(0, 2)) announce(t.saved);
    else location.reload();
  });
});

async function showKeys() {
  const { keys } = await call("GET", "data/keys");
  const revoke = (id) => () => attempt(() => call("DELETE", `data/keys/${id}`).then(showKeys));
  const shown = keys.map(({ id, prefix, label, created }) => {
    const day = new Date(created * 1000).toLocaleDateString(document.documentElement.lang);
    const properties = { type: "button", textContent: t.revoke, "aria-label": fill(t.revoke_key, { label }) };
    return el("li", {}, `${label} · ${prefix}… · ${day} `, el("button", { ...properties, on: { click: revoke(id) } }));
  });
  document.getElementById("keys").replaceChildren(...shown);
}

if (makeKey) attempt(showKeys);
makeKey?.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const { secret } = await call("POST", "data/keys", { label: makeKey.elements.label.value });
    document.getElementById("secret").textContent = secret;
    document.getElementById("made").hidden = false;
    makeKey.reset();
    await showKeys();
  });
});

erase.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    await call("POST", "data/erase", { confirm: erase.elements.confirm.value });
    localStorage.clear();
    location.assign("chat");
  });
});
