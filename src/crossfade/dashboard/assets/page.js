// What only a browser knows: whether it is dark, and how to open a link from a point of a chart.
window.dash_clientside = window.dash_clientside || {};
document.addEventListener("change", function (event) {
  const store = event.target.dataset && event.target.dataset.store;
  if (store) { window.dash_clientside.set_props(store, {data: event.target.value}); }
});
window.dash_clientside.crossfade = {
  theme: function () {
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    const name = function () { return dark.matches ? "dark" : "light"; };
    dark.addEventListener("change", function () { window.dash_clientside.set_props("theme", {data: name()}); });
    return name();
  },
  open: function (click) {
    const address = click && click.points && click.points[0] && click.points[0].customdata;
    if (address) { window.open(address, "_blank", "noopener"); }
    return window.dash_clientside.no_update;
  }
};
