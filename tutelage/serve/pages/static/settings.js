import { announce, attempt, call, t } from "./dom.js";

const preferences = document.getElementById("preferences");
const erase = document.getElementById("erase");

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

erase.addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    await call("POST", "data/erase", { confirm: erase.elements.confirm.value });
    localStorage.clear();
    location.assign("chat");
  });
});
