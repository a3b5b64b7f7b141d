"use strict";
const main = document.getElementById("swagger-ui");
const ui = SwaggerUIBundle({
  url: "openapi.json",
  domNode: main,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  docExpansion: "list",
  persistAuthorization: false, // tokens live as long as the page
  validatorUrl: null, // ask nobody outside
});
ui.initOAuth({ clientId: main.dataset.client });
