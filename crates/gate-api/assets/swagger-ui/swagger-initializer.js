// Addresses are relative, so the page also works behind a path prefix.
window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  showExtensions: true,
  showCommonExtensions: true,
  // No validator badge: nothing is fetched from other hosts.
  validatorUrl: null,
});
