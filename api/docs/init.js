"use strict";
const root = document.getElementById("swagger-ui");

// A cookie is not for the dialog: no page can send one by hand, and the browser
// sends it by itself. Nor is HTTP Basic: a person signs in above it, and a machine
// client's secret is not for a browser.
const isForOthers = (definition) => definition.some((scheme) => scheme.get("in") === "cookie" || scheme.get("scheme") === "basic");
const forPeople = () => ({
  statePlugins: { auth: { wrapActions: {
    showDefinitions: (show) => (list) => show(list && list.filterNot(isForOthers)),
  } } },
});

const ui = SwaggerUIBundle({
  url: "openapi.json",
  domNode: root,
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [forPeople],
  layout: "BaseLayout",
  deepLinking: true,
  docExpansion: "list",
  persistAuthorization: false, // tokens live as long as the page
  validatorUrl: null, // ask nobody outside
});
ui.initOAuth({ clientId: root.dataset.client });

// What Swagger UI's dialog lacks for the keyboard and for screen readers: a
// role, names, focus that comes and goes back, Enter and Escape, and links that
// can be reached.
let dialog = null;
let opener = null;

root.addEventListener("click", (event) => {
  const button = event.target.closest(".authorize, .authorization__btn");
  if (button && !button.closest(".modal-ux")) opener = button;
}, true);

new MutationObserver(() => {
  const open = root.querySelector(".modal-ux");
  if (open && open !== dialog) {
    open.setAttribute("role", "dialog");
    open.setAttribute("aria-modal", "true");
    open.setAttribute("aria-label", "Available authorizations");
    open.tabIndex = -1;
    open.querySelector(".close-modal")?.setAttribute("aria-label", "Close");
    if (!open.contains(document.activeElement)) open.focus();
  }
  if (!open && dialog && opener?.isConnected) opener.focus();
  dialog = open;
  if (!open) return;
  for (const link of open.querySelectorAll(".scopes a:not([role])")) {
    link.setAttribute("role", "button");
    link.tabIndex = 0;
  }
  for (const field of open.querySelectorAll("input:not([autocomplete])")) {
    field.autocomplete = { username: "username", password: "current-password" }[field.dataset.name] ?? "off";
  }
  for (const error of open.querySelectorAll(".errors:not([role])")) error.setAttribute("role", "alert");
  if (!open.contains(document.activeElement)) open.focus(); // its button is gone
}).observe(root, { childList: true, subtree: true });

document.addEventListener("keydown", (event) => {
  if (!dialog || event.isComposing) return;
  const at = event.target;
  if (event.key === "Escape") {
    dialog.querySelector(".close-modal")?.click();
  } else if (event.key === "Enter" && at.matches(".auth-container input:not([type=checkbox])")) {
    // The button nearest to the field: each scheme has its own.
    const button = ".auth-btn-wrapper .authorize";
    let part = at;
    while (part !== dialog && !part.querySelector(button)) part = part.parentElement;
    part.querySelector(button)?.click();
  } else if ((event.key === "Enter" || event.key === " ") && at.matches(".scopes a")) {
    at.click();
  } else if (event.key === "Tab") {
    // Focus stays in the dialog.
    const stops = [...dialog.querySelectorAll("button, input, select, a[href], a[tabindex]")].filter((e) => !e.disabled);
    const edge = event.shiftKey ? stops[0] : stops.at(-1);
    if (at !== edge && at !== dialog) return;
    if (at === dialog && !event.shiftKey) return;
    (event.shiftKey ? stops.at(-1) : stops[0]).focus();
  } else {
    return;
  }
  event.preventDefault();
});
